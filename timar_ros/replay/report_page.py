"""Style and behaviour of the report: everything of the page that does not depend on a recording."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f5f7f9; --card: #ffffff; --text: #1c2630; --muted: #64737f; --line: #e1e7ec;
  --self: #1287a6; --partner: #c8701a; --both: #8157c0; --nobody: #ccd4dc;
  --ok: #22824e; --bad: #c43b3b; --strong: #1c2630; --soft: #93a3b1; --notice: #fff4dd;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0f151b; --card: #172029; --text: #e4ebf1; --muted: #8c9caa; --line: #293541;
    --self: #3fb8d6; --partner: #f2a65a; --both: #b084de; --nobody: #3b4854;
    --ok: #57c48b; --bad: #f27d75; --strong: #e4ebf1; --soft: #6d7f8e; --notice: #33290f;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; font-weight: 650; margin: 0; letter-spacing: -0.01em; }
h2 { font-size: 17px; font-weight: 620; margin: 40px 0 12px; }
p { margin: 4px 0; } .muted { color: var(--muted); } small { font-size: 13px; }
.verdict { margin-top: 6px; font-weight: 560; } .ok { color: var(--ok); }
.bad { color: var(--bad); }
.notice { background: var(--notice); border-radius: 10px; padding: 10px 16px; margin-top: 18px; }
.notice ul { margin: 4px 0; padding-left: 20px; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(195px, 1fr)); gap: 12px;
  margin-top: 24px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 12px 16px; }
.card .name { color: var(--muted); font-size: 13px; }
.card .value { font-size: 24px; font-weight: 620; letter-spacing: -0.01em; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.card .value small { font-weight: 450; color: var(--muted); }
.card .goal { font-size: 13px; color: var(--muted); }
.split { display: grid; grid-template-columns: minmax(0, 1.15fr) minmax(0, 1fr); gap: 16px; }
@media (max-width: 820px) { .split { grid-template-columns: minmax(0, 1fr); } }
.panel { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 14px 16px; overflow-x: auto; }
.panel h3 { font-size: 14px; font-weight: 600; margin: 0 0 6px; }
video { display: block; width: 100%; border-radius: 12px; background: #141c25; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
td, th { text-align: left; padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
th { color: var(--muted); font-weight: 500; } tr:last-child td { border-bottom: 0; }
td.number, th.number { text-align: right; white-space: nowrap; }
details { margin-top: 8px; } summary { cursor: pointer; color: var(--muted); }
.plots { position: relative; user-select: none; overflow: hidden; }
.track { display: grid; grid-template-columns: 136px 1fr; align-items: stretch;
  border-bottom: 1px solid var(--line); }
.track:last-of-type { border-bottom: 0; }
.track .label { font-size: 13px; padding: 3px 10px 3px 0; display: flex; flex-direction: column;
  justify-content: center; line-height: 1.3; }
.track .label small { color: var(--muted); font-size: 12px; white-space: nowrap; }
.track svg { display: block; width: 100%; overflow: hidden; cursor: crosshair; }
.track svg * { vector-effect: non-scaling-stroke; }
.axis { position: relative; height: 22px; margin-left: 136px; font-size: 12px;
  color: var(--muted); overflow: hidden; font-variant-numeric: tabular-nums; }
.axis span { position: absolute; top: 3px; transform: translateX(-50%); }
.axis span:first-child { transform: none; }
.cursor { position: absolute; top: 0; bottom: 0; width: 1px; background: var(--strong);
  pointer-events: none; display: none; }
.cursor b { position: absolute; bottom: 1px; left: 5px; font-size: 12px; font-weight: 560;
  background: var(--card); padding: 0 4px; border-radius: 4px; white-space: nowrap; }
.drag { position: absolute; top: 0; bottom: 0; background: var(--soft); opacity: .22;
  pointer-events: none; display: none; }
.bar { display: flex; gap: 14px; align-items: center; flex-wrap: wrap; margin-bottom: 8px;
  font-size: 13px; color: var(--muted); }
.bar button { font: inherit; color: var(--text); background: var(--page); padding: 1px 12px;
  border: 1px solid var(--line); border-radius: 7px; cursor: pointer; }
.key::before { content: ""; display: inline-block; width: 14px; height: 4px; border-radius: 2px;
  background: var(--c); margin-right: 6px; vertical-align: middle; }
.histogram svg { display: block; width: 100%; height: auto; }
.histogram text { font-size: 12px; fill: var(--muted); }
footer { margin-top: 40px; color: var(--muted); font-size: 13px; }
"""

# One time axis for the drawings of a panel and the video of its section: drag to zoom, double click to see all, click
# to go there in the video.
SCRIPT = """
for (const plots of document.querySelectorAll('.plots')) {
  const section = plots.closest('section') || document;
  const svgs = [...plots.querySelectorAll('svg')], axis = plots.querySelector('.axis');
  const cursor = plots.querySelector('.cursor'), drag = plots.querySelector('.drag');
  const label = cursor.querySelector('b'), video = section.querySelector('video');
  const whole = [+plots.dataset.from, +plots.dataset.to], offset = +plots.dataset.videoFrom;
  let view = whole.slice(), from = null;
  const box = () => axis.getBoundingClientRect();
  const left = () => box().left - plots.getBoundingClientRect().left;
  const time = e => view[0] + (e.clientX - box().left) / box().width * (view[1] - view[0]);
  const place = t => left() + (t - view[0]) / (view[1] - view[0]) * box().width;
  const show = (a, b) => {
    const span = Math.min(whole[1] - whole[0], Math.max(0.4, b - a));
    a = Math.min(Math.max(whole[0], a), whole[1] - span);
    view = [a, a + span];
    for (const s of svgs) {
      const v = s.viewBox.baseVal;
      s.setAttribute('viewBox', `${a} ${v.y} ${span} ${v.height}`);
    }
    const steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600];
    const step = steps.find(s => span / s <= 13) || 7200, marks = [];
    for (let k = Math.ceil(a / step); k * step <= a + span; k++) {
      const t = k * step, text = step < 1 ? t.toFixed(1) : Math.round(t);
      marks.push(`<span style="left:${(t - a) / span * 100}%">${text} s</span>`);
    }
    axis.innerHTML = marks.join('');
  };
  const point = t => {
    const inside = t >= view[0] && t <= view[1];
    cursor.style.display = inside ? 'block' : 'none';
    cursor.style.left = place(t) + 'px';
    label.textContent = t.toFixed(2) + ' s';
  };
  plots.addEventListener('pointerdown', e => { if (e.target.closest('svg')) from = e; });
  plots.addEventListener('pointermove', e => {
    if (!e.target.closest('svg') && !from) return;
    if (!video || video.paused) point(time(e));
    if (!from) return;
    const a = Math.min(from.clientX, e.clientX), b = Math.max(from.clientX, e.clientX);
    drag.style.display = b - a > 5 ? 'block' : 'none';
    drag.style.left = a - plots.getBoundingClientRect().left + 'px';
    drag.style.width = b - a + 'px';
  });
  window.addEventListener('pointerup', e => {
    if (!from) return;
    const a = time(from), b = time(e), moved = Math.abs(from.clientX - e.clientX) > 5;
    from = null;
    drag.style.display = 'none';
    if (moved) show(Math.min(a, b), Math.max(a, b));
    else if (video) { video.currentTime = Math.max(0, b - offset); point(b); }
  });
  plots.addEventListener('dblclick', () => show(...whole));
  const zoom = factor => {
    const middle = (view[0] + view[1]) / 2, half = (view[1] - view[0]) / 2 * factor;
    show(middle - half, middle + half);
  };
  const move = share => show(view[0] + share * (view[1] - view[0]),
                             view[1] + share * (view[1] - view[0]));
  const actions = { in: () => zoom(0.5), out: () => zoom(2), all: () => show(...whole),
                    back: () => move(-0.5), on: () => move(0.5) };
  for (const b of plots.parentElement.querySelectorAll('[data-do]'))
    b.addEventListener('click', () => actions[b.dataset.do]());
  if (video) {
    const follow = () => {
      const t = video.currentTime + offset;
      if (t > view[1] || t < view[0]) show(t, t + view[1] - view[0]);
      point(t);
      if (!video.paused) requestAnimationFrame(follow);
    };
    video.addEventListener('play', follow);
    video.addEventListener('seeked', follow);
  }
  show(...whole);
}
"""
