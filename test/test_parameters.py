"""Parameters: what is not allowed is refused with a sentence that says what is."""

import pytest

pytest.importorskip("rclpy")

import rclpy
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from timar_ros.nodes.parameters import Parameter, declare


@pytest.mark.parametrize(
    ("value", "allowed"),
    [
        (0.0, "a number from 1 to 1000"),
        ("fast", "a number from 1 to 1000"),
        (".nan", "a number from 1 to 1000"),
    ],
)
def test_a_wrong_override_ends_the_node_with_the_sentence(start_node, value, allowed):
    node = start_node("simulated_head", {"rate_hz": value})
    assert node.wait() == 1
    assert "parameter 'rate_hz' is" in node.output() and allowed in node.output()
    assert "Traceback" not in node.output()


def test_a_whole_number_serves_where_a_number_is_due(start_node):
    node = start_node("simulated_head", {"rate_hz": 50})
    node.wait_for_output("simulating")
    assert node.stop() == 0


def test_changes_at_run_time_are_checked(graph):
    graph.start_node("speaker_node", {"device": "no such device", "retry_s": 30})

    def set_to(value):
        change = RosParameter("volume", value=value).to_parameter_msg()
        return graph.call(SetParameters, "/speaker/set_parameters", SetParameters.Request(parameters=[change])).results[
            0
        ]

    assert set_to(0.5).successful
    assert set_to(2).successful
    refused = set_to(40.0)
    assert not refused.successful
    assert "4.0" in refused.reason
    assert not set_to("loud").successful


def test_changes_at_run_time_are_checked_and_taken_over_without_callbacks_before_and_after():
    """As rclpy of ROS 2 Humble has them not."""

    class Old(Node):
        def __getattribute__(self, name):
            if name in ("add_pre_set_parameters_callback", "add_post_set_parameters_callback"):
                raise AttributeError(name)
            return super().__getattribute__(name)

    rclpy.init()
    try:
        node = Old("old")
        values = declare(node, [Parameter("volume", 1.0, "how loud", minimum=0, maximum=4)])
        (taken,) = node.set_parameters([RosParameter("volume", value=0.5)])
        assert taken.successful and values.volume == 0.5
        (refused,) = node.set_parameters([RosParameter("volume", value=40.0)])
        assert not refused.successful and values.volume == 0.5
        node.destroy_node()
    finally:
        rclpy.shutdown()


def test_an_empty_list_that_is_read_only_stays_as_it_is(graph, tmp_path):
    graph.start_node("recorder", {"out": tmp_path / "bag"})
    change = RosParameter("topics", value=["/mine"]).to_parameter_msg()
    request = SetParameters.Request(parameters=[change])
    (refused,) = graph.call(SetParameters, "/recorder/set_parameters", request).results
    assert not refused.successful
    assert "read-only" in refused.reason
    described = DescribeParameters.Request(names=["topics"])
    (topics,) = graph.call(DescribeParameters, "/recorder/describe_parameters", described).descriptors
    assert topics.read_only and topics.description.startswith("topics to record")


def test_ros_tools_see_description_and_range(graph):
    graph.start_node("speaker_node", {"device": "no such device", "retry_s": 30})
    request = DescribeParameters.Request(names=["volume", "message_type"])
    volume, message_type = graph.call(DescribeParameters, "/speaker/describe_parameters", request).descriptors
    assert volume.description == "factor on the samples"
    assert volume.floating_point_range[0].to_value == 4.0
    assert "std_msgs/msg/Int16MultiArray" in message_type.additional_constraints


def test_the_sentence_names_value_and_choices():
    mode = Parameter("mode", "floor", "how turns end", choices=("floor", "fixed"))
    assert mode.refusal("floor") is None
    assert mode.refusal("never") == ("parameter 'mode' is 'never'; allowed is one of 'floor', 'fixed' (how turns end)")


def test_every_element_of_a_list_is_checked():
    parties = Parameter("parties", [], "who is heard", type=list[str], choices=("self", "partner"))
    assert parties.refusal(["self", "partner"]) is None
    assert "'self', 'partner'" in parties.refusal(["self", "nobody"])
    assert "a list of texts" in parties.refusal("self")


def test_a_number_serves_for_a_text():
    assert Parameter("device", "", "which device").converted(5) == "5"
