from scheduler.circuit import LEAST_DELAY_S, MOST_DELAY_S, Circuit, CircuitState


def test_a_fault_opens_it_joining_again_half_opens_it_and_a_request_that_ends_well_closes_it() -> None:
    circuit = Circuit()
    states = [circuit.state]
    for happen in (circuit.open, circuit.rejoin, circuit.forget):
        happen()
        states.append(circuit.state)
    assert states == [CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN, CircuitState.CLOSED]


def test_a_worker_that_joins_without_a_fault_gets_all_that_it_can_run() -> None:
    circuit = Circuit()
    circuit.rejoin()
    assert circuit.state is CircuitState.CLOSED


def test_the_delay_doubles_up_to_its_bound_while_nothing_ends_well() -> None:
    circuit = Circuit()
    delays = []
    for _ in range(8):
        delays.append(circuit.open())
        circuit.rejoin()
    assert delays == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert (delays[0], delays[-1]) == (LEAST_DELAY_S, MOST_DELAY_S)


def test_a_worker_that_is_trusted_before_an_answer_has_ended_still_has_its_past() -> None:
    circuit = Circuit()
    assert not circuit.has_past
    circuit.open()
    circuit.rejoin()
    circuit.close()
    assert (circuit.state, circuit.has_past) == (CircuitState.CLOSED, True)
    assert circuit.open() == 2 * LEAST_DELAY_S


def test_the_delay_begins_anew_once_a_request_has_ended_well() -> None:
    circuit = Circuit()
    circuit.open()
    circuit.open()
    circuit.rejoin()
    circuit.forget()
    assert not circuit.has_past
    assert circuit.open() == LEAST_DELAY_S
