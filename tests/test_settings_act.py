"""Every setting has a test that shows that it acts: here they are.

Those of tests/main show that a knob reaches the part that it is for; the second one, that this part heeds it. LIVE:
those that show that a part heeds what changes while it runs; tests/main and e2e, that it is told.
"""

import ast
from pathlib import Path

import pytest

from ollamamax.settings.tree import knobs

ROOT = Path(__file__).resolve().parent.parent
REACHES = "main/test_main_config.py::test_a_knob_changes_what_it_should_and_nothing_else"
CONFIGURED = "services/test_agent_launch.py::test_what_is_configured_reaches_the_engine"

TESTS: dict[str, tuple[str, ...]] = {
    "home": ("e2e/test_node_settings.py::test_what_a_node_keeps_lies_where_it_was_told",),
    "models": ("e2e/test_node_settings.py::test_what_a_node_keeps_lies_where_it_was_told",),
    "listen.host": ("e2e/test_node_settings.py::test_it_listens_where_it_was_told",),
    "listen.port": ("e2e/test_node_settings.py::test_it_listens_where_it_was_told",),
    "listen.origins": (REACHES, "api/test_api_routes.py::test_origins"),
    "listen.insecure_public": ("e2e/test_node_settings.py::test_a_public_address_has_to_be_meant",),
    "listen.max_body_bytes": (REACHES, "api/test_api_connections.py::test_a_huge_chunked_body_is_refused"),
    "listen.body_timeout_s": (REACHES, "api/test_api_connections.py::test_a_half_sent_body_times_out"),
    "listen.shutdown_grace_s": (
        "e2e/test_breaking.py::test_sigterm_lets_answers_finish",
        "e2e/test_breaking.py::test_sigterm_ends_an_endless_answer_after_the_grace_time",
    ),
    "peer.host": (
        "e2e/test_node_settings.py::test_a_node_that_shall_never_have_a_cluster",
        "e2e/test_cluster_settings.py::test_the_peer_listener_is_where_it_was_told_to_be",
    ),
    "peer.port": ("e2e/test_cluster_settings.py::test_the_peer_listener_is_where_it_was_told_to_be",),
    "peer.advertise": ("e2e/test_cluster_settings.py::test_others_are_told_the_advertised_address",),
    "peer.seeds": ("e2e/test_cluster_settings.py::test_nodes_whose_addresses_all_changed_find_each_other_by_seeds",),
    "peer.multicast": ("e2e/test_cluster_settings.py::test_a_node_without_multicast_is_not_found_on_the_lan",),
    "peer.node_name": ("e2e/test_cluster.py::test_three_nodes_answer_as_one_and_a_fourth_takes_requests",),
    "peer.cluster_name": ("e2e/test_cluster_settings.py::test_the_cluster_is_called_as_it_was_founded",),
    "peer.ca_passphrase": ("e2e/test_cluster_settings.py::test_the_authoritys_key_is_encrypted",),
    "peer.lease_s": (REACHES, "e2e/test_cluster_settings.py::test_silence_is_suspicious_after_the_lease"),
    "state.etcd_path": ("e2e/test_cluster_ha.py::test_each_has_to_have_an_etcd",),
    "state.endpoints": ("e2e/test_cluster_ha.py::test_an_etcd_that_others_run",),
    "state.ca": ("e2e/test_cluster_ha.py::test_an_etcd_that_others_run",),
    "state.certificate": ("e2e/test_cluster_ha.py::test_an_etcd_that_others_run",),
    "state.key": ("e2e/test_cluster_ha.py::test_an_etcd_that_others_run",),
    "engine.keep_alive": (REACHES, "services/test_agent.py::test_keep_alive"),
    "engine.max_loaded_models": (REACHES, "services/test_agent.py::test_the_limit_of_loaded_models"),
    "engine.num_parallel": (REACHES, "services/test_agent.py::test_slots_as_configured"),
    "engine.context_length": (REACHES, "services/test_agent_launch.py::test_context"),
    "engine.load_timeout_s": (
        REACHES,
        "services/test_agent_endings.py::test_a_load_that_takes_too_long",
        "services/test_deadlines.py::test_the_first_tokens_deadline",
    ),
    "engine.kv_cache_type": (REACHES, CONFIGURED, "adapters/test_engine_memory.py::test_the_estimate"),
    "engine.flash_attention": (REACHES, CONFIGURED, "adapters/test_engine_memory.py::test_the_estimate"),
    "engine.gpu_overhead_bytes": (REACHES, "services/test_agent.py::test_gpu_overhead_is_left_free"),
    "engine.noprune": (
        "e2e/test_node_settings.py::test_blobs_that_no_model_uses_are_removed_unless_told_otherwise",
        "services/test_library.py::test_blobs_stay_where_nothing_is_to_be_pruned",
    ),
    "queue.max_queue": ("e2e/test_node_settings.py::test_more_requests_than_may_wait_are_turned_away",),
    "routing.poll_s": (REACHES, "services/test_fleet.py::test_polling_notices_loss_and_return"),
    "routing.first_token_timeout_s": (REACHES, "services/test_deadlines.py::test_the_first_tokens_deadline"),
    "routing.stall_timeout_s": (
        REACHES,
        "services/test_deadlines.py::test_an_engine_that_hangs_in_the_middle_fails_the_answer",
        "api/test_api_connections.py::test_a_client_that_stops_reading_is_given_up",
    ),
    "routing.retry_ratio": (REACHES, "services/test_dispatch.py::test_each_request_pays_into_the_budget"),
    "routing.retry_min_per_window": (REACHES, "services/test_dispatch.py::test_retries_have_a_budget"),
    "routing.breaker_failures": (REACHES, "services/test_fleet.py::test_breakers_are_per_model_and_shown"),
    "routing.breaker_open_s": (REACHES, "services/test_fleet.py::test_breakers_are_per_model_and_shown"),
    "log.level": ("e2e/test_node_settings.py::test_logs_have_a_level_and_a_form",),
    "log.format": ("e2e/test_node_settings.py::test_logs_have_a_level_and_a_form",),
    "telemetry.otlp_endpoint": ("e2e/test_node_settings.py::test_traces_go_where_they_were_told",),
}


AGENT = "services/test_agent.py::test_other_settings_hold_from_the_next_request_on"
API = "api/test_api_connections.py::test_other_limits_hold_from_the_next_request_on"
DISPATCH = "services/test_deadlines.py::test_other_deadlines_are_for_what_begins_from_then_on"
BREAKERS = "services/test_fleet_limits.py::test_breakers_that_there_are_go_by_other_limits"
BUDGET = "core/resilience/test_retry_budget.py::test_another_share"
BETWEEN = "main/test_live_settings.py::test_what_stands_between_engines_and_clients_heeds_changes"
TOLD = "e2e/test_cluster_config.py::test_what_is_set_acts_at_once"

LIVE: dict[str, tuple[str, ...]] = {
    "listen.origins": (API, TOLD),
    "listen.max_body_bytes": (API, TOLD),
    "listen.body_timeout_s": (API, TOLD),
    "engine.keep_alive": (AGENT, TOLD),
    "engine.max_loaded_models": (AGENT, TOLD),
    "engine.num_parallel": (AGENT, TOLD),
    "engine.context_length": (AGENT, TOLD),
    "engine.load_timeout_s": (
        "core/residency/test_residency_keep_alive.py::test_other_limits_are_for_what_is_loaded_from_then_on",
        DISPATCH,
        BETWEEN,
        TOLD,
    ),
    "engine.kv_cache_type": (AGENT, TOLD),
    "engine.flash_attention": (AGENT, TOLD),
    "engine.gpu_overhead_bytes": (
        "services/test_agent.py::test_other_gpu_overhead_is_left_free_at_the_next_load",
        TOLD,
    ),
    "engine.noprune": ("services/test_library.py::test_whether_blobs_are_removed_can_change", TOLD),
    "queue.max_queue": ("core/resilience/test_admission.py::test_another_limit", BETWEEN),
    "routing.poll_s": ("services/test_fleet_limits.py::test_other_limits_hold_at_once", TOLD),
    "routing.first_token_timeout_s": (DISPATCH, BETWEEN),
    "routing.stall_timeout_s": (DISPATCH, API, BETWEEN),
    "routing.retry_ratio": (BUDGET, BETWEEN),
    "routing.retry_min_per_window": (BUDGET, BETWEEN),
    "routing.breaker_failures": (BREAKERS, "core/resilience/test_breaker.py::test_other_limits", TOLD),
    "routing.breaker_open_s": (BREAKERS, "core/resilience/test_breaker.py::test_other_limits", TOLD),
    "log.level": ("adapters/test_telemetry.py::test_a_logger_in_use_follows_another_level", TOLD),
}


def test_each_setting_has_one() -> None:
    assert list(TESTS) == list(knobs())


def test_each_setting_that_acts_at_run_time_has_one() -> None:
    assert list(LIVE) == [key for key, knob in knobs().items() if knob.applies == "live"]


@pytest.mark.parametrize("test", sorted({test for tests in (*TESTS.values(), *LIVE.values()) for test in tests}))
def test_it_is_there(test: str) -> None:
    path, _, name = test.partition("::")
    tree = ast.parse((ROOT / "tests" / path).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
