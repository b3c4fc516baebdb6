from nml_ray.node_watch import changes


def node(address: str, alive: bool = True) -> dict:
    return {"NodeManagerAddress": address, "NodeManagerHostname": "one", "Alive": alive}


def test_a_node_is_lost_once():
    before = {"a": node("10.0.0.1"), "b": node("10.0.0.2"), "c": node("10.0.0.3", alive=False)}
    now = {**before, "b": node("10.0.0.2", alive=False)}
    (line,) = changes(before, now)
    assert line.startswith("lost the node 10.0.0.2 (one): ")
    assert changes(now, now) == []


def test_a_node_comes():
    assert changes({}, {"a": node("10.0.0.1")}) == ["the node 10.0.0.1 (one) has come"]
    assert changes({}, {"a": node("10.0.0.1", alive=False)}) == []
