import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { randomBytes } from "node:crypto";
import { fromBinary } from "@bufbuild/protobuf";
import { RbsError } from "../../proto/base/errors.ts";
import { OpenRequestSchema } from "../../proto/contract/gen/rbs/v1/workspace_pb.ts";
import type { Stream } from "../../proto/transport/http2/stream.ts";
import { type ServerCall, Status, StatusError, unaryRequest } from "../../proto/transport/grpc/calls.ts";
import { Connection } from "../../proto/transport/grpc/channel.ts";
import { requestMessages } from "../../proto/transport/grpc/messages.ts";
import { listenForCalls } from "../../proto/transport/grpc/server.ts";
import { bytesValue, encodeFields, scanFields } from "../../proto/base/protobuf_fields.ts";
import { decodeBatch, type TreeRecord } from "../../proto/tree/batch.ts";
import { digestOf } from "../../proto/tree/read.ts";
import { tempDir } from "../../tests/support/temp_dir.ts";
import { openRoots } from "./agent_calls.ts";
import { WorkspaceSync } from "./workspace_sync.ts";

/** Messages of an OpenResponse, of which nothing is checked. */
const generation = (name: string) => encodeFields([[1, name]]);
const root = (path: string, refusal = "") => encodeFields([[2, encodeFields([[1, path], [2, refusal]])]]);
const entries = (...encoded: Uint8Array[]) => encodeFields([[3, encodeFields(encoded.map((e) => [1, e]))]]);
const partial = (digest: Uint8Array, received: number) =>
  encodeFields([[4, encodeFields([[1, digest], [2, received]])]]);
const entry = (path: string, kind = 1, mode = 0o644) =>
  encodeFields([[1, path], [2, kind], [3, mode], [4, kind === 1 ? 1 : 0], [6, kind === 3 ? "/etc" : undefined]]);

/** Serves a call. */
type Script = (call: ServerCall, stream: Stream) => Promise<void> | void;

/** A developer's machine, and an agent that says what a test wants. */
async function laptop() {
  const temp = await tempDir();
  const workspace = temp.join("ws"), outputBase = temp.join("ob");
  Deno.mkdirSync(`${workspace}/src`, { recursive: true });
  Deno.writeTextFileSync(`${workspace}/BUILD`, "mine");
  Deno.writeTextFileSync(`${workspace}/src/a.cc`, "mine");
  Deno.writeTextFileSync(temp.join("beside"), "mine");
  const calls: string[] = [];
  const said: string[] = [];
  const server = listenForCalls("127.0.0.1", async (stream, headers, call) => {
    const method = headers[":path"].split("/").at(-1)!;
    if (method === "Apply") {
      const refused = fresh && !it.empty;
      calls.push(refused ? "Apply refused" : method);
      if (refused) {
        throw new StatusError(Status.FAILED_PRECONDITION, "It has something.", { "rbs-reason": "not-empty" });
      }
      return await it.apply(call, stream);
    }
    calls.push(method);
    // Who asks for no root begins with an empty agent, and is told only of what was cut off.
    fresh = fromBinary(OpenRequestSchema, await unaryRequest(stream, 1 << 20)).roots.length === 0;
    if (!fresh) return await it.open(call, stream);
    for (const message of it.first) await call.write(message);
    call.end();
  }, () => {});
  let fresh = false;
  const connection = new Connection("127.0.0.1", server.port);
  const link = { connection, headers: () => ({}) };
  const sync = new WorkspaceSync({ workspace, outputBase });
  const files = () => {
    const seen: string[] = [];
    const walk = (folder: string) => {
      for (const { name, isDirectory } of Deno.readDirSync(folder)) {
        const path = `${folder}/${name}`;
        if (path === outputBase) continue;
        const { mode, mtime, ino, size } = Deno.lstatSync(path);
        seen.push([path, mode, isDirectory ? "" : mtime!.getTime(), ino, size].join(" "));
        if (isDirectory) walk(path);
      }
    };
    walk(temp.path);
    return seen.sort();
  };
  const it = {
    workspace,
    link,
    calls,
    said,
    /** Whether the agent takes a workspace without a look at what it has. */
    empty: false,
    first: [generation("g1")],
    /** An agent that has nothing. */
    open: (async (call) => {
      for (const message of [generation("g1"), root(workspace)]) await call.write(message);
      call.end();
    }) as Script,
    /** An agent that takes everything. */
    apply: (async (call, stream) => {
      for await (const _ of requestMessages(stream, 8 << 20));
      call.write(generation("g2"));
      call.end();
    }) as Script,
    /** Has the agent answer an Open with these messages. */
    opens(...messages: Uint8Array[]) {
      it.open = async (call) => {
        for (const message of messages) await call.write(message);
        call.end();
      };
    },
    barrier: () => sync.barrier({ link, say: (line) => void said.push(line), signal: new AbortController().signal }),
    /** The barrier ends with one sentence, and nothing has happened on this machine. */
    async refuses(what: string, why = /^The agent's answer about the workspace .*\.$/) {
      const before = files();
      await assert.rejects(it.barrier(), (e: Error) => {
        assert.ok(e instanceof RbsError || e instanceof StatusError, `${what}: ${e.stack}`);
        assert.match(e.message, why, what);
        assert.match(e.message, /^[\x20-\x7e\ufffd…]*$/, what);
        return true;
      });
      assert.deepEqual(files(), before, what);
    },
    files,
    async [Symbol.asyncDispose]() {
      sync.close();
      connection.close();
      server.close();
      await temp[Symbol.asyncDispose]();
    },
  };
  return it;
}

Deno.test("a manifest that no honest agent gives is refused in a sentence, and nothing is sent for it", async () => {
  await using t = await laptop();
  const good = [generation("g1"), root(t.workspace)];
  const lies: Record<string, Uint8Array[]> = {
    "nothing": [],
    "no generation": [root(t.workspace)],
    "an empty generation": [Uint8Array.of(0x0a, 0), root(t.workspace)],
    "an endless generation": [generation("g".repeat(1 << 20)), root(t.workspace)],
    "a generation that is a number": [encodeFields([[1, 5]]), root(t.workspace)],
    "no root": [generation("g1")],
    "more roots than asked for": [...good, root("/etc"), entries(entry("passwd"))],
    "files of no root": [generation("g1"), entries(entry("a")), root(t.workspace)],
    "a root that is none": [generation("g1"), encodeFields([[2, Uint8Array.of(0xff, 0xff)]])],
    "garbage": [...good, Uint8Array.of(255, 255, 255)],
    "entries that are garbage": [...good, encodeFields([[3, Uint8Array.of(255, 255)]])],
    "an entry that is garbage": [...good, entries(Uint8Array.of(255, 255))],
    "a partial without a digest": [...good, partial(Buffer.from("x"), 5)],
    "a partial that is garbage": [...good, encodeFields([[4, Uint8Array.of(255, 255)]])],
    "an unknown kind": [...good, entries(entry("a", 7))],
    "a mode that is none": [...good, entries(entry("a", 1, 0o100644))],
  };
  const paths = ["..", "../beside", "src/../../beside", "/etc/passwd", `${t.workspace}/BUILD`, "a\0b", "", ".", "a//b"];
  for (const path of paths) {
    for (const kind of [1, 2, 3]) {
      lies[`${JSON.stringify(path)} of kind ${kind}`] = [...good, entries(entry(path, kind))];
    }
  }
  for (const [what, messages] of Object.entries(lies)) {
    t.opens(...messages);
    await t.refuses(what);
  }
  assert.ok(!t.calls.includes("Apply"));
  // Once there is an honest one, all goes on.
  t.opens(...good);
  assert.deepEqual(await t.barrier(), { generation: "g2" });
});

Deno.test("a manifest that never ends is cut off, with little kept of it", async () => {
  await using t = await laptop();
  const limits = { entries: 1_000, partials: 100, bytes: 1 << 20 };
  let visited = 0;
  const visit = { root: () => {}, entry: () => void visited++, partial: () => void visited++ };
  const open = () => openRoots(t.link, [t.workspace], visit, new AbortController().signal, limits);
  const endless: [RegExp, Uint8Array][] = [
    [/has more than 1,000 files in /, entries(...Array.from({ length: 10 }, (_, i) => entry(`${i}`)))],
    [/has more than 100 files that were cut off/, partial(digestOf(Buffer.from("x")), 5)],
    // Its connection ends before it is read so far.
    [/frames that carry nothing/, new Uint8Array()],
    [/does not end/, encodeFields([[9, Buffer.alloc(1000)]])],
    [/does not end|frames that carry nothing/, generation("g1")],
    [/has more than what was asked for/, root(t.workspace)],
  ];
  for (const [why, message] of endless) {
    visited = 0;
    const over = Promise.withResolvers<void>();
    t.open = async (call) => {
      call.gone.addEventListener("abort", () => over.resolve());
      for (const first of [generation("g1"), root(t.workspace)]) await call.write(first);
      while (!call.gone.aborted) {
        for (let i = 0; i < 1_000; i++) await call.write(message);
        await new Promise((resolve) => setTimeout(resolve));
      }
    };
    await assert.rejects(open(), (e: Error) => why.test(e.message), String(why));
    assert.ok(visited <= 1_000, `${visited} were taken`);
    // The agent is told that nobody listens any more.
    await over.promise;
  }
});

for (const empty of [true, false]) {
  const name = `the beginning of a file that is larger than the file does no harm, ${empty ? "first" : "later"}`;
  Deno.test(name, () => largerBeginning(empty));
}

async function largerBeginning(empty: boolean) {
  await using t = await laptop();
  const content = randomBytes(1 << 20);
  Deno.writeFileSync(`${t.workspace}/large`, content);
  const before = t.files();
  const partials = [
    partial(digestOf(content), Number.MAX_SAFE_INTEGER),
    partial(digestOf(Buffer.from("mine")), 1 << 20),
  ];
  t.empty = empty;
  t.first = [generation("g1"), ...partials];
  t.opens(generation("g1"), root(t.workspace), ...partials);
  const records: TreeRecord[] = [];
  t.apply = async (call, stream) => {
    for await (const message of requestMessages(stream, 8 << 20)) {
      scanFields(message, (f) => f.number === 2 && records.push(...decodeBatch(bytesValue(message, f))));
    }
    call.write(generation("g2"));
    call.end();
  };
  assert.deepEqual(await t.barrier(), { generation: "g2" });
  const sent = records.map(({ entry }) => entry?.path).filter((path) => path !== undefined).sort();
  assert.deepEqual(sent, ["BUILD", "large", "src", "src/a.cc"]);
  for (const { offset = 0, entry } of records) assert.ok(offset <= (entry?.size ?? 0));
  assert.deepEqual(t.files(), before);
}

Deno.test("an answer to changes that no honest agent gives is refused in a sentence", async () => {
  const answers: Record<string, Uint8Array[]> = {
    "garbage": [Uint8Array.of(255, 255, 255)],
    "no generation": [new Uint8Array()],
    "an endless generation": [generation("g".repeat(1 << 20))],
    "two answers": [generation("g2"), generation("g3")],
  };
  const hear = async (answer: Script, what: string, why?: RegExp) => {
    for (const empty of [true, false]) {
      await using t = await laptop();
      t.empty = empty;
      t.apply = async (call, stream) => {
        for await (const _ of requestMessages(stream, 8 << 20));
        await answer(call, stream);
      };
      await t.refuses(what, why);
    }
  };
  for (const [what, messages] of Object.entries(answers)) {
    await hear(async (call) => {
      for (const message of messages) await call.write(message);
      call.end();
    }, what);
  }
  await hear(async (call) => {
    while (!call.gone.aborted) await (call.write(generation("g2")) ?? new Promise((resolve) => setTimeout(resolve)));
  }, "endless answers");
  await hear((call) => call.end(), "no answer", /^The workspace cannot be synced: .* without an answer\.$/);
});

Deno.test("an answer that comes before all changes were sent is not believed", async () => {
  await using t = await laptop();
  // More than what the network takes while nobody reads.
  for (let i = 0; i < 3; i++) Deno.writeFileSync(`${t.workspace}/large ${i}`, randomBytes(8 << 20));
  t.empty = true;
  t.apply = (call) => {
    call.write(generation("g2"));
    call.end();
  };
  await t.refuses("an early answer", /^The agent's answer .* since it came before all changes were sent: .*\.$/);
});

Deno.test("an agent whose generations are lies is given up after a few attempts", async () => {
  await using t = await laptop();
  assert.deepEqual(await t.barrier(), { generation: "g2" });
  t.calls.length = 0;
  t.apply = () => Promise.reject(new StatusError(Status.FAILED_PRECONDITION, "The generation is another one."));
  Deno.writeTextFileSync(`${t.workspace}/BUILD`, "changed");
  await t.refuses("a lie", /^The generation is another one\.$/);
  assert.ok(t.calls.length <= 12, t.calls.join());
});

Deno.test("why a root is refused cannot steer the terminal", async () => {
  await using t = await laptop();
  t.opens(generation("g1"), root(t.workspace, `\u001b[2Jwiped\nrbs: all is well\u202e${"!".repeat(5_000)}`));
  await t.refuses("a refusal", /^\ufffd\[2Jwiped\ufffdrbs: all is well\ufffd!{100,1000}$/);
});
