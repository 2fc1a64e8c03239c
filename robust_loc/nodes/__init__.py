"""The ROS 2 graph: thin lifecycle nodes around the estimators. The only room that imports ROS."""
