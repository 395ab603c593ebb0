import assert from "node:assert/strict";
import { RbsError } from "../../proto/base/errors.ts";
import { fields } from "../testing/session_fields.ts";
import { SpannerEmulator, withEmulator } from "../testing/spanner_emulator.ts";
import { startColumns } from "./rows.ts";
import { stepsOf } from "./migrations.ts";
import { VERSION_MIGRATIONS } from "./spanner_migrations.ts";
import { MIGRATIONS, SpannerStore } from "./spanner_store.ts";
import { storeContract } from "./store_contract.ts";

const KEY = { userId: "ann", repoHash: "a".repeat(32), serverId: "" };

/** Checks that a method fails by one sentence that names the store. */
async function refused(promise: Promise<unknown>, name: string, pattern: RegExp): Promise<void> {
  await assert.rejects(promise, (e: unknown) => {
    assert(e instanceof RbsError, String(e));
    assert.match(e.message, pattern);
    assert(e.message.includes(`spanner:${name} `), e.message);
    assert(!e.message.includes("\n"), e.message);
    return true;
  });
}

withEmulator(() => {
  let emulator: SpannerEmulator;
  Deno.test.beforeAll(async () => {
    emulator = await SpannerEmulator.start();
  });
  Deno.test.afterAll(() => emulator[Symbol.asyncDispose]());

  const database = async () => {
    const name = await emulator.newDatabase();
    return { open: () => SpannerStore.open(name), [Symbol.asyncDispose]: () => emulator.dropDatabase(name) };
  };
  storeContract("Spanner", database, {
    // The emulator runs one read-write transaction at a time.
    starts: 100,
  });

  Deno.test(
    "Spanner: several orchestrators may make the tables at once, and find what was written",
    async () => {
      const name = await emulator.newDatabase();
      const stores = await Promise.all([1, 2, 3].map(() => SpannerStore.open(name)));
      const written = await stores[0].sessions.transition({ ...KEY, state: "NONE", epoch: 0 }, "start", fields());
      for (const store of stores) {
        assert.deepEqual(await store.sessions.get(KEY), written);
        await store[Symbol.asyncDispose]();
      }
      await using store = await SpannerStore.open(name);
      assert.deepEqual(await store.sessions.get(KEY), written);
    },
  );

  Deno.test("Spanner: a database without server ids is taken on, by several orchestrators at once, with all that it holds", async () => {
    const name = await emulator.newDatabase();
    const start = fields({ holder: "1".repeat(32) });
    const { AdoptedBy: _, ...columns } = startColumns(start);
    const rows = Array.from({ length: 700 }, (_, i) => ({ UserId: "ann", RepoHash: String(i) }));
    await emulator.use(name, async (database) => {
      for (const steps of stepsOf([VERSION_MIGRATIONS, ...MIGRATIONS]).slice(0, 4)) {
        const [operation] = await database.updateSchema(steps.flatMap(({ statements }) => statements));
        await operation.promise();
      }
      await database.table("SchemaVersion").insert({ Id: 1, Version: 4 });
      await database.table("BuildSessions").insert(
        rows.map((key) => ({ ...key, ...columns, Status: "READY", Epoch: 4, Term: 3 })),
      );
      await database.table("SessionEpochs").insert({ UserId: "ann", RepoHash: "gone", Epoch: 7 });
    });
    const stores = await Promise.all([1, 2, 3].map(() => SpannerStore.open(name)));
    for (const store of stores) {
      const key = { userId: "ann", repoHash: "3", serverId: "" };
      assert.deepEqual(await store.sessions.get(key), { ...start, ...key, status: "READY", epoch: 4, term: 3 });
      assert.equal((await store.sessions.list()).length, rows.length);
    }
    const gone = { ...KEY, repoHash: "gone", state: "NONE", epoch: 0 } as const;
    assert.equal((await stores[0].sessions.transition(gone, "start", fields()))?.epoch, 8);
    for (const store of stores) await store[Symbol.asyncDispose]();
    // An orchestrator of before finds nothing to work on.
    await emulator.use(name, async (database) => {
      await assert.rejects(database.run("SELECT * FROM BuildSessions"), /Table not found/);
    });
  });

  Deno.test("Spanner: a database of a newer orchestrator is refused, and left as it is", async () => {
    const name = await emulator.newDatabase();
    await (await SpannerStore.open(name))[Symbol.asyncDispose]();
    await emulator.use(name, (database) => database.table("SchemaVersion").update({ Id: 1, Version: 99 }));
    await refused(
      SpannerStore.open(name),
      name,
      /written by a newer orchestrator \(schema 99, this one knows \d+\)/,
    );
    await emulator.use(name, async (database) => {
      const [rows] = await database.run({ sql: "SELECT Version FROM SchemaVersion", json: true });
      assert.deepEqual(rows, [{ Version: 99 }]);
    });
  });

  Deno.test("Spanner: a database, instance or project that is not there is named", async () => {
    for (
      const name of [
        emulator.databaseName("gone"),
        "projects/rbs-test/instances/gone/databases/gone",
        "projects/gone/instances/gone/databases/gone",
      ]
    ) await refused(SpannerStore.open(name), name, /is not there \(.*\): create the database, or name another/);
  });

  Deno.test("Spanner: an emulator's address that is none is a sentence", async () => {
    Deno.env.set("SPANNER_EMULATOR_HOST", "localhost:http");
    try {
      const name = emulator.databaseName("any");
      await refused(
        SpannerStore.open(name),
        name,
        /failed \(Invalid port number: http\): check that the emulator at/,
      );
    } finally {
      Deno.env.set("SPANNER_EMULATOR_HOST", emulator.address);
    }
  });

  Deno.test("Spanner: when it is out of reach every method says so within its deadline", async () => {
    await using mortal = await SpannerEmulator.start();
    const name = await mortal.newDatabase();
    await using store = await SpannerStore.open(name, { timeoutMs: 1_000 });
    const session = await store.sessions.transition({ ...KEY, state: "NONE", epoch: 0 }, "start", fields());
    store.sessions.watch(KEY, () => {});
    const underWay = store.sessions.touch(KEY, undefined, 2_000).catch(() => {});
    await mortal.kill();
    const started = performance.now();
    const failed = /failed \(.+\): check that the emulator at 127\.0\.0\.1:\d+ can be reached, and try again\.$/;
    await Promise.all([
      underWay,
      refused(store.sessions.get(KEY), name, failed),
      refused(store.sessions.list(), name, failed),
      refused(store.sessions.touch(KEY, undefined, 2_000), name, failed),
      ...Array.from(
        { length: 20 },
        () => refused(store.sessions.transition({ ...session!, state: "PENDING" }, "ready"), name, failed),
      ),
      refused(SpannerStore.open(name, { timeoutMs: 1_000 }), name, failed),
    ]);
    assert(performance.now() - started < 10_000);
  });

  Deno.test("Spanner: it goes on when the network is back, and listeners hear what they missed", async () => {
    await using flaky = await SpannerEmulator.start();
    const name = await flaky.newDatabase();
    await using store = await SpannerStore.open(name, { timeoutMs: 1_000 });
    await using other = await SpannerStore.open(name);
    const session = await store.sessions.transition({ ...KEY, state: "NONE", epoch: 0 }, "start", fields());
    const heard = Promise.withResolvers<void>();
    store.sessions.watch(KEY, heard.resolve);
    await store.sessions.get(KEY);
    await flaky.pause();
    const noAnswer = /failed \(.+\): check that the emulator at/;
    await Promise.all([
      refused(store.sessions.get(KEY), name, noAnswer),
      refused(store.sessions.touch(KEY, undefined, 2_000), name, noAnswer),
    ]);
    flaky.resume();
    assert(await other.sessions.transition({ ...session!, state: "PENDING" }, "ready"));
    await heard.promise;
    assert.equal((await store.sessions.get(KEY))?.status, "READY");
    assert.equal(await store.sessions.touch(KEY, undefined, 3_000), true);
  });
});
