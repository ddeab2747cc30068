"""Bugs to plant, one at a time, and the tests that must then fail.

Each bug replaces one text, which is in its file exactly once, by another that still runs. The new
text uses only names that the file has: a ``NameError`` would be caught by any test. The bugs are
the mistakes that would hurt this design most, not those that a tool would generate.
"""

from dataclasses import dataclass

ENGINE = ("tests/domain/test_engine.py",)
SIMULATION = ("tests/simulation/test_simulation.py::test_no_storm_loses_or_doubles_anything",)
MATCHER = ("tests/matcher/test_matcher.py",)
RECOVERY = ("tests/matcher/test_replica.py",)
LOG = ("tests/log/test_writer.py",)
TAMPERING = ("tests/log/audit/test_tampering.py",)
GROWING = ("tests/gateway/resources/test_growing.py",)
ADOPTION = ("tests/tools/operators/test_adoption.py",)
RESTORE = "tests/tools/operators/test_restore.py"
TRIM = ("tests/tools/operators/test_trim.py",)
FOLDING = ("tests/projections/test_folding.py",)
FOLLOWING = ("tests/gateway/parts/test_following.py",)
CHANGES = ("tests/projections/lifecycle/test_changes.py",)
BUILDER = ("tests/projections/builder/test_builder.py",)
PUBLISHER = ("tests/projections/publisher/test_publisher.py",)
STORE = ("tests/contracts/test_event_store.py",)  # on a real PostgreSQL too


@dataclass(frozen=True)
class Mutant:
    """A planted bug."""

    name: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTANTS = [
    Mutant(
        "the worst price trades first",
        "exchange/domain/book.py",
        "self._sign = 1 if side is Side.BUY else -1",
        "self._sign = -1 if side is Side.BUY else 1",
        ENGINE,
    ),
    Mutant(
        "the newest order at a price trades first",
        "exchange/domain/book.py",
        "        level.orders[order.order_id] = order\n",
        "        level.orders[order.order_id] = order\n"
        "        level.orders.move_to_end(order.order_id, last=False)\n",
        ENGINE,
    ),
    Mutant(
        "an empty level stays",
        "exchange/domain/book.py",
        "        if not level.orders:\n",
        "        if not level.orders and not level:\n",
        ("tests/domain/test_book.py",),
    ),
    Mutant(
        "a trade is at the taker's price",
        "exchange/domain/engine.py",
        "            price=maker.price,\n",
        "            price=order.price or maker.price,\n",
        ("tests/domain/test_oracle.py",),
    ),
    Mutant(
        "an order trades with as many as there are",
        "exchange/domain/engine.py",
        "islice(_trades(book, order, now_ms), FILLS_MAX)",
        "_trades(book, order, now_ms)",
        ENGINE,
    ),
    Mutant(
        "a filled order counts as open for ever",
        "exchange/domain/engine.py",
        "    count = state.open_orders[order.client_id] - 1\n",
        "    count = state.open_orders[order.client_id]\n",
        ENGINE,
    ),
    Mutant(
        "the digest forgets a changed bound on open orders",
        "exchange/domain/engine.py",
        "if open_orders_max == OPEN_ORDERS_MAX:",
        "if open_orders_max:",
        ("tests/domain/test_engine_digest.py",),
    ),
    Mutant(
        "time goes backwards",
        "exchange/domain/engine.py",
        "now_ms = max(time_ms, state.time_ms)",
        "now_ms = time_ms",
        SIMULATION,
    ),
    Mutant(
        "an outcome is told before the commit",
        "exchange/matcher/matcher.py",
        "        with watched:\n            async with self._blaming_rows(",
        "        self._publisher.put(messages)\n"
        "        with watched:\n            async with self._blaming_rows(",
        SIMULATION,
    ),
    Mutant(
        "a stop cancels the commit under way",
        "exchange/matcher/matcher.py",
        "await asyncio.shield(self._commit)",
        "await self._commit",
        MATCHER,
    ),
    Mutant(
        "the offset does not move past the last command",
        "exchange/matcher/matcher.py",
        "following = Offset(last.offset + 1) if self._waiting else self._commands.next_offset",
        "following = last.offset",
        SIMULATION,
    ),
    Mutant(
        "a topic that was cut and has grown again is taken for whole",
        "exchange/transport/commands.py",
        "if self._first() != last:",
        "if self._first() is None:",
        ("tests/contracts/test_command_log.py",),
    ),
    Mutant(
        "a new life of the topic uses offsets again",
        "exchange/tools/operators/adoption.py",
        "base = (before.next_offset // LIFE_OFFSETS + 1) * LIFE_OFFSETS",
        "base = before.next_offset // LIFE_OFFSETS * LIFE_OFFSETS",
        ADOPTION,
    ),
    Mutant(
        "what a batch left to the next one counts as decided when that is lost",
        "exchange/tools/operators/adoption.py",
        "return offset < head.next_offset",
        "return offset != head.next_offset",
        ADOPTION,
    ),
    Mutant(
        "a restore does not fence the matchers of the log as it was",
        "exchange/tools/operators/backups/restoration.py",
        "update public.head set epoch = greatest(epoch, {epoch}) + {epochs_apart};",
        "update public.head set epoch = epoch + {epoch} * 0 * {epochs_apart};",
        (f"{RESTORE}::test_a_writer_of_the_log_as_it_was_appends_nothing_any_more",),
    ),
    Mutant(
        "a restore commits before the heads are compared",
        "exchange/tools/operators/backups/restoration.py",
        'END = """\ndo $$ begin',
        'END = """\ncommit; begin; do $$ begin',
        (f"{RESTORE}::test_a_backup_that_does_not_fit_changes_nothing",),
    ),
    Mutant(
        "trimming deletes the record by which a restored matcher knows the topic",
        "exchange/tools/operators/backups/trimming.py",
        "firsts = [0 if head is None else head.first_wanted for head in known]",
        "firsts = [0 if head is None else head.next_record for head in known]",
        TRIM,
    ),
    Mutant(
        "trimming forgets the older backups",
        "exchange/tools/operators/backups/trimming.py",
        "max(begin, min(*firsts, end))",
        "max(begin, min(firsts[0], end))",
        TRIM,
    ),
    Mutant(
        "a head below Kafka's first record goes on at that",
        "exchange/transport/commands.py",
        "        if offset < self._base + begin:\n",
        "        if offset < begin - self._base - end:\n",
        TRIM,
    ),
    Mutant(
        "an adoption does not fence the matcher that runs",
        "exchange/tools/operators/adoption.py",
        "epoch=before.epoch + 1,",
        "epoch=before.epoch,",
        ADOPTION,
    ),
    Mutant(
        "commands beyond a full batch are dropped",
        "exchange/matcher/matcher.py",
        "self._waiting = records[done:]",
        "self._waiting = []",
        SIMULATION,
    ),
    Mutant(
        "a resent key is decided again",
        "exchange/matcher/matcher.py",
        "if name is not None and not self._is_mine(first := holders[name], received):",
        "if name is not None and (first := holders[name]).kafka_offset < 0:",
        SIMULATION,
    ),
    Mutant(
        "another body under a resent key is no conflict",
        "exchange/matcher/matcher.py",
        "first.conflicts_with(body_hash(received.command))",
        "first.conflicts_with(first.body_hash)",
        SIMULATION,
    ),
    Mutant(
        "a taken order id is not noticed",
        "exchange/matcher/matcher.py",
        "order_id_taken=not self._is_mine(first, received)",
        "order_id_taken=first.kafka_offset < 0",
        SIMULATION,
    ),
    Mutant(
        "a record without a key is decided again while its batch commits",
        "exchange/matcher/matcher.py",
        "holders = dict(self._under_way)",
        "holders: dict[str, Claim] = {}",
        MATCHER,
    ),
    Mutant(
        "a command that crashes the matcher is tried for ever",
        "exchange/matcher/matcher.py",
        "if crashes < CRASHES_MAX:",
        "if crashes < 1_000_000:",
        SIMULATION,
    ),
    Mutant(
        "a standby takes over with the state that it had before",
        "exchange/matcher/matcher.py",
        "        await replica.advance(head.position)\n        replica.check_digest(head)\n",
        "",
        SIMULATION,
    ),
    Mutant(
        "the digest is not checked at a restore",
        "exchange/matcher/replica.py",
        "if self.digest != head.state_digest:",
        "if not self.digest:",
        RECOVERY,
    ),
    Mutant(
        "a damaged snapshot is believed",
        "exchange/log/snapshots.py",
        "if claimed != (snapshot.position, snapshot.digest, snapshot.time_ms):",
        "if claimed[0] != snapshot.position:",
        RECOVERY,
    ),
    Mutant(
        "the head is not fenced by the epoch",
        "exchange/log/writer.py",
        "where shard = $1 and epoch = $2 and position = $3 and next_offset = $4",
        "where shard = $1 and epoch >= $2 - 1000 and position = $3 and next_offset = $4",
        STORE,
    ),
    Mutant(
        "a taken name is taken again",
        "exchange/log/writer.py",
        "on conflict (name) do nothing\n    returning name\n), taken_with",
        "on conflict (name) do update set shard = 0\n    returning name\n), taken_with",
        STORE,
    ),
    Mutant(
        "a replay reads past the head",
        "exchange/log/replay.py",
        "    where shard = $1 and position > $2 and position <= $3\n"
        "    order by position\n    limit $4\n) as part",
        "    where shard = $1 and position > $2 and position <= $3 + 1\n"
        "    order by position\n    limit $4\n) as part",
        STORE,
    ),
    Mutant(
        "a replay passes over a gap",
        "exchange/log/replay.py",
        'read["position"] - begin != read["events"]',
        'read["position"] < read["events"]',
        LOG,
    ),
    Mutant(
        "a full disk is the fault of the command that met it",
        "exchange/log/writer.py",
        "    return state[:2] in ROW_CLASSES and ",
        "    return bool(state) and ",
        LOG,
    ),
    Mutant(
        "a projection passes over an event that is missing",
        "projections/projector/tail.py",
        "        if one.position != position:\n",
        "        if one.position < position:\n",
        ("tests/projections/projector/test_tail.py",),
    ),
    Mutant(
        "a follower never looks at its checkpoint again",
        "projections/projector/follower.py",
        "                position = await self._resume()\n            self._outage.over()\n",
        "                pass\n            self._outage.over()\n",
        SIMULATION,
    ),
    Mutant(
        "a checkpoint moves wherever it is",
        "projections/stores/postgres.py",
        "where projection = $1 and generation = $2 and shard = $3 and position = $4\n",
        "where projection = $1 and generation = $2 and shard = $3 and position >= $4 - 1000000\n",
        ("tests/projections/test_models.py", "tests/projections/projector/test_projector.py"),
    ),
    Mutant(
        "a claim that was lost is not noticed",
        "exchange/log/audit/claims.py",
        'return f"its claim {self.name!r} is missing"',
        "return None",
        TAMPERING,
    ),
    Mutant(
        "a claim of no command is not noticed",
        "exchange/log/audit/claims.py",
        "!= self.held:",
        "< self.held:",
        TAMPERING,
    ),
    Mutant(
        "an event between two lives of the topic is not noticed",
        "exchange/log/audit/recorded.py",
        "return max(last.next_offset, begun[-1].first_offset if begun else 0)",
        "return last.next_offset",
        TAMPERING,
    ),
    Mutant(
        "a batch that was lost is not noticed",
        "exchange/log/audit/recorded.py",
        "elif len(batch.links) != (batch.position - last.position) * LINK_BYTES:",
        "elif len(batch.links) % LINK_BYTES:",
        TAMPERING,
    ),
    Mutant(
        "a chain that was kept is not compared",
        "exchange/log/audit/kept.py",
        "if kept not in (chain, root):",
        "if len(kept) != len(chain):",
        TAMPERING,
    ),
    Mutant(
        "a head that was moved back is believed",
        "exchange/matcher/matcher.py",
        "await self._events.check_end(head)",
        "await self._events.position()",
        RECOVERY,
    ),
    Mutant(
        "a body that nobody knows is a conflict",
        "exchange/ports.py",
        "return self.body_hash not in (UNKNOWN_BODY, body_hash)",
        "return self.body_hash != body_hash",
        MATCHER,
    ),
    Mutant(
        "a retried order is refused the id that its own record took",
        "exchange/matcher/matcher.py",
        "[received.offset, *(retry.offset for retry in _retries(received.command))]",
        "[received.offset]",
        RECOVERY,
    ),
    Mutant(
        "what was never quarantined is decided once more",
        "exchange/matcher/matcher.py",
        "if quarantined.get(Offset(retry.offset)) != retry.sha256:",
        "if quarantined.get(Offset(retry.offset), retry.sha256) != retry.sha256:",
        RECOVERY,
    ),
    Mutant(
        "a shard that is added takes part in closed cycles",
        "projections/settlement.py",
        "join shards on shards.first <= numbers.cycle",
        "join shards on shards.first > 0",
        GROWING,
    ),
    Mutant(
        "a shard is placed without asking which cycle is open",
        "exchange/domain/engine.py",
        "ShardPlaced(command.shard, state.settlement_cycle, time_ms=now_ms)",
        "ShardPlaced(command.shard, FIRST_CYCLE, time_ms=now_ms)",
        ("tests/domain/test_engine_refusals.py",),
    ),
    Mutant(
        "a settlement cycle is told of two moments",
        "exchange/gateway/parts/reading.py",
        'isolation_level="REPEATABLE READ"',
        'isolation_level="READ COMMITTED"',
        ("tests/gateway/resources/test_settlement.py::test_what_a_cycle_tells_is_of_one_moment",),
    ),
    Mutant(
        "a shard's placing is not found in its retry",
        "exchange/log/reader.py",
        "            and events.type = 'CommandQuarantined'",
        "            and events.type = 'RecordRejected'",
        ("tests/log/test_writer.py::test_a_shard_is_placed_by_the_retry_of_what_was_quarantined",),
    ),
    Mutant(
        "a snapshot of another log is told",
        "exchange/log/snapshot_store.py",
        " and digest = state_digest",
        "",
        ("tests/log/test_snapshots.py::test_a_snapshot_of_another_log_is_not_told",),
    ),
    Mutant(
        "a page of positions repeats the last of the page before",
        "projections/positions.py",
        "POSITIONS.c.instrument > after,",
        "POSITIONS.c.instrument >= after,",
        ("tests/projections/test_queries.py::test_positions_of_a_client",),
    ),
    Mutant(
        "the present definition answers for every generation",
        "projections/stores/queries.py",
        "if made_by == self.fingerprint:",
        "if self.fingerprint:",
        ("tests/projections/test_definitions.py",),
    ),
    Mutant(
        "a generation that others built is refused though its tables are the same",
        "projections/stores/queries.py",
        "for fits in (is_made_by, has_shape_of):",
        "for fits in (is_made_by,):",
        ("tests/projections/test_definitions.py",),
    ),
    Mutant(
        "skips of a later definition are told of an earlier one's rows",
        "projections/stores/checkpoints.py",
        "skips.fingerprint = made.fingerprint",
        "skips.fingerprint is not null",
        ("tests/gateway/resources/test_skipped_events.py",),
    ),
    Mutant(
        "what a closed part of a position cost is rounded up",
        "projections/positions.py",
        "share = cost * closed // abs(net)",
        "share = (cost * closed + abs(net) - 1) // abs(net)",
        ("tests/projections/test_positions.py",),
    ),
    Mutant(
        "an event after a skipped one takes its position",
        "projections/folding.py",
        "pairwise([0, *_gaps(events), len(events)])",
        "pairwise([0, len(events)])",
        FOLDING,
    ),
    Mutant(
        "a finished order is given out again",
        "projections/orders.py",
        "        self._effects.final, self._effects.history = [], []",
        "        self._effects.history = []",
        FOLDING,
    ),
    Mutant(
        "a cut forgets what the cycle before it owes",
        "projections/settlement.py",
        "        self._state.obligations += cycle.obligation_rows(shard)",
        "        self._state.obligations = cycle.obligation_rows(shard)",
        FOLDING,
    ),
    Mutant(
        "a leap second is the second before it",
        "exchange/gateway/http/requests.py",
        " + 1_000 * leap_seconds",
        "",
        ("tests/gateway/http/test_times.py",),
    ),
    Mutant(
        "a log that was set aside goes on growing",
        "exchange/stack/host/child.py",
        "os.truncate(log, 0)  # also if the disk is full",
        "pass",
        ("tests/stack/host/test_child.py::test_a_large_log_is_set_aside",),
    ),
    Mutant(
        "a long answer comes without its trades",
        "exchange/gateway/stream/protocol/frames.py",
        'numbered = {"trades": trades, "part": part,',
        'numbered = {"trades": [], "part": part,',
        (
            "tests/gateway/stream/test_renderer.py::test_an_answer_with_very_many_trades_comes_in_parts_that_are_sent_together",
        ),
    ),
    Mutant(
        "what the adopted topic still has is told lost",
        "exchange/gateway/parts/submission.py",
        "elif answer.displaced and waiter.way is not _Way.SETTLED:",
        "elif False:",
        ("tests/gateway/orders/test_lost.py",),
    ),
    Mutant(
        "a location is told with a base that nobody has read",
        "exchange/gateway/parts/backlog.py",
        "        if self._bases is None:",
        "        if False:",
        ("tests/gateway/orders/test_lost.py",),
    ),
    Mutant(
        "a model that moves is stuck all the same",
        "exchange/gateway/parts/following.py",
        "            if shard in before and before[shard][0] == place\n",
        "            if shard in before\n",
        FOLLOWING,
    ),
    Mutant(
        "the first event after an idle hour makes models stuck",
        "exchange/gateway/parts/following.py",
        "            if reached.get(shard, 0) < head\n",
        "            if reached.get(shard, 0) <= head\n",
        FOLLOWING,
    ),
    Mutant(
        "a failed model at the head looks healthy",
        "exchange/gateway/parts/following.py",
        "        if live.state in TOLD:\n",
        "        if live.state in TOLD and set(heads.values()) != set(reached.values()):\n",
        FOLLOWING,
    ),
    Mutant(
        "a model that went on is stuck by the time of its pause",
        "exchange/gateway/parts/following.py",
        "        self._waits.pop(name, None)\n",
        "",
        FOLLOWING,
    ),
    Mutant(
        "a reload makes a writer forgetful",
        "exchange/log/writer.py",
        "                **self._pinned,\n",
        "",
        ("tests/test_durability.py::test_a_writer_commits_as_durably_as_when_it_began",),
    ),
    Mutant(
        "one in-sync replica of three is enough",
        "exchange/durability.py",
        "replicas >= REPLICAS_SAFE",
        "replicas > REPLICAS_SAFE",
        ("tests/test_durability.py",),
    ),
    Mutant(
        "an idle projector wakes for the next shard",
        "projections/projector/tail.py",
        'wake(int(payload.partition(":")[0]))',
        'wake(int(payload.partition(":")[0]) + 1)',
        (
            "tests/projections/projector/test_projector.py::test_an_idle_projector_is_told_of_what_is_appended",
        ),
    ),
    Mutant(
        "a busy writer is overtaken",
        "exchange/log/writer.py",
        "if beat != self._beat:",
        "if self._beat < 0:",
        ("tests/log/test_writer.py::test_a_writer_that_is_busy_is_waited_for",),
    ),
    Mutant(
        "a disconnect waits for room in the queue",
        "exchange/gateway/server/connection.py",
        'self._is_over = self._is_over or message["type"] in DISCONNECTS',
        "self._is_over = False",
        (
            "tests/gateway/server/test_early_answers.py::test_a_stream_that_is_not_read_to_its_end_is_closed",
        ),
    ),
    Mutant(
        "a trusted proxy of IPv6 is capped",
        "exchange/gateway/server/server.py",
        "not is_trusted(peer, self.proxies)",
        "not is_trusted(counted(peer), self.proxies)",
        ("tests/gateway/server/test_caps.py",),
    ),
    Mutant(
        "a stop leaves connections as they are",
        "exchange/gateway/server/server.py",
        "            connection.stop()",
        "            pass",
        (
            "tests/gateway/server/test_connections.py::test_a_stop_ends_idle_connections_and_answers_what_is_under_way",
        ),
    ),
    Mutant(
        "a body that was not read keeps its connection",
        "exchange/gateway/server/edge.py",
        "            await _answer_and_close(problem, scope, receive, send)",
        "            await problem.response()(scope, receive, send)",
        (
            "tests/gateway/server/test_early_answers.py::test_a_body_with_two_readings_ends_the_connection_though_it_is_short",
        ),
    ),
    Mutant(
        "a switch does not wait for the generation that is behind",
        "projections/lifecycle/switching.py",
        "        if not behind:\n            return\n",
        "        if behind is not None:\n            return\n",
        CHANGES,
    ),
    Mutant(
        "a switch whose operator saw another one live is made",
        "projections/lifecycle/changes.py",
        "if number is not None and number != now:",
        "if number is None and number != now:",
        CHANGES,
    ),
    Mutant(
        "the former generation is not followed",
        "projections/lifecycle/generations.py",
        "self.state in (CATCHING_UP, LIVE, KEPT, FAILED)",
        "self.state in (CATCHING_UP, LIVE, FAILED)",
        CHANGES,
    ),
    Mutant(
        "a paused generation is followed",
        "projections/lifecycle/generations.py",
        "self.state in (CATCHING_UP, LIVE, KEPT, FAILED)",
        "self.state in (CATCHING_UP, LIVE, KEPT, FAILED, PAUSED)",
        CHANGES,
    ),
    Mutant(
        "a generation that differs from the log is switched live",
        "projections/builder/builder.py",
        "        if found.different:\n            told",
        "        if found.different < 0:\n            told",
        BUILDER,
    ),
    Mutant(
        "a build forgets its fold at the end of a round",
        "projections/builder/build.py",
        "kept = None if is_written else fold.dump()",
        "kept = None if is_written else type(fold)().dump()",
        BUILDER,
    ),
    Mutant(
        "a row that is missing is not noticed",
        "projections/builder/comparing/tables.py",
        "            full join {sides[",
        "            join {sides[",
        BUILDER,
    ),
    Mutant(
        "a block of the tree that is wrong is not noticed",
        "exchange/log/audit/blocks.py",
        "if kept.get(block, root) != root:",
        "if len(kept.get(block, root)) != len(root):",
        ("tests/log/audit/test_blocks.py",),
    ),
    Mutant(
        "a proof leads to the block beside its own",
        "exchange/log/audit/proof.py",
        "path(index, within) + path(block, above)",
        "path(index, within) + path(block ^ 1, [*above, *above])",
        ("tests/log/audit/test_proof.py",),
    ),
    Mutant(
        "a model that was verified with another digest is as proved",
        "exchange/tools/projections/proving.py",
        "one.verified in (None, one.digest)",
        "one.verified in (None, one.verified)",
        ("tests/tools/projections/test_prove.py",),
    ),
    Mutant(
        "a statement goes on behind the cut of its cycle",
        "exchange/tools/analysts/statement.py",
        "            return Part(shard, position, within, cut.time_ms)",
        "            return Part(shard, up_to, within, cut.time_ms)",
        ("tests/tools/test_statement.py",),
    ),
    Mutant(
        "publishing goes on behind what was aborted",
        "projections/publisher/partition.py",
        '"isolation.level": "read_committed",',
        '"isolation.level": "read_uncommitted",',
        PUBLISHER,
    ),
    Mutant(
        "publishing goes on from what the log says, not from the topic",
        "projections/publisher/standing.py",
        "return last.position, last.chain",
        "return published, last.chain",
        PUBLISHER,
    ),
    Mutant(
        "a partition that lost its events is begun again",
        "projections/publisher/standing.py",
        "        if published:",
        "        if published < 0:",
        PUBLISHER,
    ),
    Mutant(
        "another history is published on",
        "projections/publisher/standing.py",
        "if await read_chain(connection, shard, last.position) != last.chain:",
        "if len(await read_chain(connection, shard, last.position)) != len(last.chain):",
        PUBLISHER,
    ),
    Mutant(
        "a topic that is gone is made again",
        "projections/publisher/topic.py",
        "        if was_published:",
        "        if was_published is None:",
        PUBLISHER,
    ),
]
