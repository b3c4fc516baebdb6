from nml_ray.pretrain.rendezvous import interface_of


def test_an_address_has_its_interface():
    assert interface_of("127.0.0.1").startswith("lo")
    assert interface_of("203.0.113.77") == ""
