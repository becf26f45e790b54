"""The tests mirror the package: mppool/core/pool.py is tested in tests/core/test_pool.py, or where this list says."""

from __future__ import annotations

import os

from tests.import_graph import HOME, modules

#: Modules without a test file of their own name, and where they are tested.
ELSEWHERE: dict[str, str] = {
    "mppool.__main__": "tests/integrations/test_named.py",
    "mppool.cli.naming": "tests/cli/test_showing.py tests/cli/test_completion.py",
    "mppool.cli.running": "tests/test_scope.py",
    "mppool.errors": "tests/drop_in/test_side_by_side.py tests/test_public_names.py tests/process/test_misuse.py",
    "mppool.settings": "tests/test_bad_input.py tests/test_public_names.py",
    # one walk over the whole machine, and one over both sides of the protocol
    "mppool.core.accounts": "tests/core/test_policy.py",
    "mppool.core.notifications": "tests/process/test_notifications_walk.py",
    "mppool.shared.helper_process": "tests/cluster/test_launching.py tests/reaper/test_launching.py",
    "mppool.membership.asking": "tests/membership/test_launcher.py tests/manager/test_server.py",
    "mppool.core.plan": "tests/core/test_policy.py",
    "mppool.core.shortage": "tests/core/test_pool.py",
    "mppool.core.slots": "tests/core/test_pool.py",
    "mppool.core.wants": "tests/core/test_policy.py",
    # the host machine, its two parts that must be right walked with all interleavings; the three engines alike
    "mppool.cluster.ghosts": "tests/cluster/test_host.py tests/cluster/test_walk.py",
    "mppool.cluster.holding": "tests/cluster/test_host.py tests/cluster/test_walk.py",
    "mppool.cluster.counting": "tests/cluster/test_judge.py",
    "mppool.cluster.engines": "tests/cluster/test_hosts.py",
    "mppool.cluster.judging": "tests/cluster/test_agent.py",
    "mppool.cluster.setup": "tests/cli/test_clustering.py",
    "mppool.cluster.memory": "tests/cluster/test_contract.py",
    "mppool.cluster.postgres_schema": "tests/cluster/test_contract.py tests/cluster/test_postgres_engine.py",
    "mppool.cluster.redis_scripts": "tests/cluster/test_contract.py tests/cluster/test_redis_engine.py",
    # seen from the connections, which the same tests use as threads and as tasks
    "mppool.database.connection.async_connection": "tests/database/connection/test_connections.py",
    "mppool.database.connection.backends": "tests/database/connection/test_link.py",
    "mppool.database.connection.base_connection": "tests/database/connection/test_connections.py",
    "mppool.database.connection.calls": "tests/database/connection/test_connections.py",
    "mppool.database.connection.driver_uri": "tests/database/connection/test_tls.py tests/test_uri.py",
    "mppool.database.connection.link_state": "tests/database/connection/test_link.py",
    "mppool.database.connection.own_socket": "tests/database/connection/test_link.py",
    "mppool.database.connection.opening": "tests/database/connection/test_link.py",
    "mppool.database.connection.sync_connection": "tests/database/connection/test_connections.py",
    "mppool.database.runtime.exit_guard": "tests/live/test_exits.py",
    "mppool.database.runtime.private_library": "tests/crash/test_inheritance.py tests/database/runtime/test_drivers.py",
    "mppool.database.fake": "tests/database/test_contract.py",
    "mppool.database.sql.driver_statement": "tests/database/connection/test_binding.py",
    "mppool.database.sql.lexer": "tests/database/sql/test_lexer_fuzz.py tests/database/sql/test_statements.py",
    "mppool.database.values.postgres_types": "tests/database/values/test_value_matrix.py",
    # seen on a terminal, and in a page
    "mppool.view.style": "tests/view/test_page.py",
    # processes
    "mppool.integrations.gunicorn": "tests/integrations/test_gunicorn_conf.py tests/live/test_gunicorn.py",
    "mppool.integrations.jobs.inside": "tests/integrations/test_jobs.py",
    "mppool.integrations.jobs.jobs": "tests/integrations/test_jobs.py",
    "mppool.integrations.jobs.pickling": "tests/integrations/test_jobs.py",
    "mppool.integrations.jobs.progress": "tests/integrations/test_jobs.py",
    "mppool.integrations.jobs.worker": "tests/integrations/test_jobs.py",
    "mppool.manager.admission": "tests/manager/test_server.py tests/crash/test_other_places.py",
    "mppool.manager.clients": "tests/manager/test_server.py tests/manager/test_rude_clients.py",
    "mppool.manager.connections": "tests/manager/test_tcp_closing.py",
    "mppool.manager.orphans": "tests/crash/test_orphans.py",
    "mppool.manager.leaving": "tests/manager/test_server.py",
    "mppool.manager.requests": "tests/manager/test_server.py tests/manager/test_message_fuzz.py",
    "mppool.membership.member": "tests/process/test_processes.py",
    "mppool.membership.succession": "tests/crash/test_succession.py",
    "mppool.process.agent": "tests/process/test_notifications_walk.py tests/process/test_processes.py",
    "mppool.process.attachment": "tests/process/test_notifications_walk.py tests/process/test_descriptors.py",
    "mppool.process.async_pool": "tests/process/test_handles.py",
    "mppool.process.closing": "tests/process/test_connector.py tests/crash/test_silent_connections.py",
    "mppool.process.executor": "tests/process/test_handles.py",
    "mppool.process.handle": "tests/process/test_handles.py",
    "mppool.process.owner": "tests/process/test_handles.py tests/process/test_resizing.py",
    "mppool.process.lease": "tests/process/test_misuse.py tests/process/test_amid_a_step.py",
    "mppool.process.lending": "tests/process/test_handles.py tests/process/test_amid_a_step.py",
    "mppool.process.local": "tests/process/test_handles.py tests/process/test_amid_a_step.py",
    "mppool.process.manager": "tests/process/test_handles.py tests/integrations/test_named.py",
    "mppool.process.nested": "tests/process/test_misuse.py tests/live/test_interrupts.py",
    "mppool.process.openings": "tests/process/test_handles.py tests/crash/test_database_gone.py",
    "mppool.process.options": "tests/test_public_names.py tests/typing/test_typing.py",
    "mppool.process.registry": "tests/process/test_handles.py tests/process/test_forgotten.py",
    "mppool.process.row": "tests/process/test_notifications_walk.py",
    "mppool.process.silent_connections": "tests/crash/test_silent_connections.py",
    "mppool.process.state": "tests/process/test_amid_a_step.py",
    "mppool.process.sync_pool": "tests/process/test_handles.py",
    "mppool.process.upkeep": "tests/process/test_forgotten.py tests/process/test_amid_a_step.py",
    "mppool.process.wake_pipe": "tests/process/test_descriptors.py",
    "mppool.process.wakeups": "tests/process/test_descriptors.py",
    "mppool.reaper.terminating": "tests/crash/test_ending.py",
    "mppool.shared.descriptors": "tests/process/test_descriptors.py",
    "mppool.shared.endpoints": "tests/manager/test_neighbours.py",
    "mppool.shared.neighbours": "tests/manager/test_neighbours.py",
    "mppool.shared.tcp_state": "tests/crash/test_broken_off.py",
    "mppool.shared.room": "tests/manager/test_no_room.py",
}


def mirror(module: str) -> str:
    *folders, name = module.split(".")[1:]
    return os.path.join("tests", *folders, f"test_{name}.py")


def test_every_module_has_a_test_file_that_is_found_by_its_name() -> None:
    own = [name for name, path in modules() if not path.endswith("__init__.py")]
    missing = [name for name in own if name not in ELSEWHERE and not os.path.exists(os.path.join(HOME, mirror(name)))]
    assert missing == [], "write these tests, or say in ELSEWHERE where they are"


def test_the_list_of_exceptions_is_true() -> None:
    own = {name for name, _ in modules()}
    assert ELSEWHERE.keys() - own == set(), "there are no such modules any more"
    found = [name for name in ELSEWHERE if os.path.exists(os.path.join(HOME, mirror(name)))]
    assert found == [], "these have a test file of their own now"
    files = {file for files in ELSEWHERE.values() for file in files.split()}
    assert {file for file in files if not os.path.exists(os.path.join(HOME, file))} == set()
