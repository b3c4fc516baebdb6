import threading

from nml_ray.config.shared import Shared


def test_a_change_holds_until_the_last_has_left():
    said: list[str] = []

    def change():
        said.append("made")
        return lambda: said.append("undone")

    quiet, entered, leave = Shared(change), threading.Event(), threading.Event()

    def other():
        with quiet():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with quiet():
        thread.start()
        assert entered.wait(10)
    assert said == ["made"]
    leave.set()
    thread.join()
    assert said == ["made", "undone"]
    with quiet():
        assert said == ["made", "undone", "made"]
