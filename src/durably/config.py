"""Every limit and setting of a server, in one frozen value; each name ends in its unit.

Defaults are generous beside Temporal's, because agents carry whole conversations in payloads.
`durably serve` reads each from the environment as `DURABLY_<NAME>` in capitals.
"""

from dataclasses import dataclass, field

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    # Where
    store: str = "memory:"
    host: str = "127.0.0.1"
    port: int = 7233
    reuse_port: bool = False
    host_names: tuple[str, ...] = ()
    auth_tokens: str = ""
    namespaces: tuple[str, ...] = ("default",)

    time_skipping: bool = False

    # The web console
    console: bool = True
    console_codec_endpoint: str = ""

    # PostgreSQL
    postgres_reading_connections_max: int = 8
    postgres_writing_connections_max: int = 8
    postgres_prepared_statements: int = 1000
    postgres_connect_timeout_s: float = 5.0
    postgres_statement_timeout_s: float = 30.0
    postgres_unavailable_s: float = 10.0
    postgres_listen: str = ""
    node_beat_s: float = 2.0
    node_lost_after_s: float = 10.0

    # What one call may carry
    message_bytes_max: int = 128 * MIB
    payload_bytes_max: int = 32 * MIB
    memo_bytes_max: int = 8 * MIB
    identifier_chars_max: int = 1000
    concurrent_streams_max: int = 10_000

    # One execution
    history_events_suggest_continue_as_new: int = 10_000
    history_bytes_suggest_continue_as_new: int = 64 * MIB
    pending_activities_max: int = 20_000
    pending_children_max: int = 20_000
    pending_signals_max: int = 20_000
    pending_cancels_max: int = 20_000
    signals_max: int = 100_000
    updates_in_flight_max: int = 1_000
    updates_max: int = 100_000
    buffered_events_max: int = 10_000
    buffered_queries_max: int = 1_000
    callbacks_max: int = 2_000

    # Calls to others: completion callbacks
    callback_addresses: tuple[str, ...] = ("https://*",)
    private_networks_allowed: tuple[str, ...] = ()
    callback_timeout_s: float = 10.0
    callback_url_chars_max: int = 1_000
    callback_header_bytes_max: int = 8 * 1024
    calls_per_destination_max: int = 100
    public_url: str = ""
    endpoint_credentials: dict[str, str] = field(default_factory=dict)
    links_per_request_max: int = 10
    link_bytes_max: int = 4_000

    # Calls of agents outside: MCP, A2A
    call_wait_s: float = 2.0
    output_readers_max: int = 1_000

    # Calls to agents: MCP servers and A2A agents behind Nexus endpoints
    agent_call_timeout_s: float = 300.0
    agent_poll_interval_s: float = 0.5
    agent_poll_maximum_interval_s: float = 15.0

    # Nexus operations
    nexus_operations_pending_max: int = 20_000
    nexus_request_timeout_s: float = 10.0
    nexus_call_timeout_s: float = 60.0
    nexus_retry_initial_interval_s: float = 1.0
    nexus_retry_maximum_interval_s: float = 3600.0
    nexus_header_bytes_max: int = 8192
    nexus_token_bytes_max: int = 4096
    nexus_breaker_failures: int = 6
    nexus_breaker_open_s: float = 60.0
    nexus_endpoint_name_chars_max: int = 200
    nexus_endpoint_description_bytes_max: int = 20_000
    nexus_endpoint_url_chars_max: int = 4096

    # Rules of a namespace
    workflow_rules_max: int = 100

    # Batch operations
    batch_operations_open_max: int = 100
    batch_executions_max: int = 10_000
    batch_executions_per_s_max: float = 500.0

    # Task queues
    fairness_weights_max: int = 1_000

    # Worker versioning
    deployments_max: int = 100
    versions_per_deployment_max: int = 100
    task_queues_per_version_max: int = 100
    version_sets_per_queue_max: int = 10
    builds_per_queue_max: int = 100
    version_drainage_grace_s: float = 180.0
    version_drainage_interval_s: float = 180.0

    # Long polls and timeouts
    task_poll_timeout_s: float = 60.0
    history_poll_timeout_s: float = 20.0
    update_poll_timeout_s: float = 20.0
    activity_poll_timeout_s: float = 20.0
    query_timeout_s: float = 10.0
    query_poller_unavailable_s: float = 20.0
    workflow_task_timeout_default_s: float = 10.0
    workflow_task_timeout_max_s: float = 120.0
    sticky_poller_unavailable_s: float = 10.0
    worker_remembered_s: float = 300.0
    shutdown_drain_s: float = 5.0

    # Pages and memory
    history_page_events_default: int = 256
    history_page_bytes_max: int = 4 * MIB
    list_page_size_default: int = 20
    list_page_size_max: int = 1000
    workers_max: int = 100_000
    cached_executions_max: int = 20_000
    cached_history_bytes_per_execution: int = 256 * 1024

    # What is told of the server
    metrics: bool = True
    traces_endpoint: str = ""
    traces_protocol: str = "grpc"
    traces_content: bool = False
    traces_interval_s: float = 2.0
    metrics_queues_max: int = 200
    metrics_count_interval_s: float = 10.0

    # Background
    deadline_sweep_interval_s: float = 15.0
    retention_default_s: float = 24 * 3600.0

    # Search attributes that exist in every namespace from the start, name -> type name
    search_attributes: dict[str, str] = field(default_factory=dict)
