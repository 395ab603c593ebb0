/** A hostile proxy tries to reach more than the session's own files. It has the session's token, so it is admitted. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { zstdCompressSync } from "node:zlib";
import { Status } from "../../proto/transport/grpc/calls.ts";
import { encodeFields } from "../../proto/base/protobuf_fields.ts";
import type { TreeRecord } from "../../proto/tree/batch.ts";
import { digestOf } from "../../proto/tree/read.ts";
import { eventually } from "../../tests/support/eventually.ts";
import { answer, batchMessage, file, folder, link, pieces, status, Storage, TestService, WS } from "./testing.ts";
import { type SyncTempDir, tempDirSync } from "../../tests/support/temp_dir.ts";

const refused = status(Status.INVALID_ARGUMENT, /^This was refused: /);

/** Everything that is there, with contents. */
function everything(folder: string, at = ""): string[] {
  return [...Deno.readDirSync(`${folder}/${at}`)].flatMap(({ name, isDirectory, isSymlink }) => {
    const path = `${at}/${name}`;
    if (isDirectory) return [path, ...everything(folder, path)];
    return isSymlink ? [path] : [`${path}: ${Deno.readTextFileSync(folder + path).slice(0, 100)}`];
  }).sort();
}

/** The storage with something beside it that must stay as it is. */
class Prey extends Storage {
  readonly #around: SyncTempDir;

  constructor() {
    const around = tempDirSync();
    super(around.join("storage"));
    this.#around = around;
    this.write(around.join("victim/f"), "untouched");
    this.write(`${this.path}/out/f`, "untouched");
    Deno.mkdirSync(`${this.path}/ctl`);
  }

  get around(): string {
    return this.#around.path;
  }

  /** Fails unless all outside of the session's root is as it was. */
  check(): void {
    assert.deepEqual(everything(`${this.around}/victim`), ["/f: untouched"]);
    assert.deepEqual(everything(`${this.path}/out`), ["/f: untouched"]);
    assert.deepEqual(everything(`${this.path}/ctl`), []);
    assert.deepEqual([...Deno.readDirSync(this.around)].map(({ name }) => name).sort(), ["storage", "victim"]);
  }

  override [Symbol.dispose](): void {
    this.#around[Symbol.dispose]();
  }
}

function isThere(path: string): boolean {
  try {
    Deno.lstatSync(path);
    return true;
  } catch {
    return false;
  }
}

Deno.test("paths that lead out of a root are refused", async () => {
  using storage = new Prey();
  using agent = new TestService(storage);
  const up = "../".repeat(5);
  const records: TreeRecord[] = [
    ...["../f", `${up}victim/f`, "/etc/f", "a/../../f", ".", "..", "", "a//b", "a/", "./a", "a\0b"].map((p) =>
      file(p, "x")
    ),
    ...["x".repeat(256), "a/".repeat(3000) + "b"].map((p) => file(p, "x")),
    folder("../d"),
    link("../l", "x"),
    { remove: "../ws" },
    { remove: ".." },
    { remove: `${up}victim` },
    { remove: "/home" },
    { ...file("f", "untouched"), content: undefined, copyFrom: `${up}victim/f` },
    { ...file("f", "untouched"), content: undefined, copyFrom: `${storage.around}/victim/f` },
    { ...file("f", "untouched"), content: undefined, copyFrom: "../../../../out/f" },
  ];
  for (const record of records) {
    await assert.rejects(agent.change([record]), refused, JSON.stringify(record).slice(0, 100));
  }
  storage.check();
  assert.deepEqual(await agent.list(), []);
});

Deno.test("roots that are none of the developer's are refused", async () => {
  using storage = new Prey();
  using agent = new TestService(storage);
  const roots = ["/", "", "home", "../x", "/home/../../out", "/home/..", "/etc", "/usr/lib", "/proc/self", "/home//x"]
    .concat("/home/ann/.cache/bazel/_bazel_ann/0123", "/home/ann/.cache/bazel/_bazel_ann/0123/external", "/a\0b");
  const { manifests } = await agent.open(...roots);
  assert.ok(manifests.every(({ root, entries }) => root.refusal !== "" && entries.length === 0));
  for (const root of roots) {
    await assert.rejects(agent.change([file("f", "x")], { root }), status(Status.FAILED_PRECONDITION), root);
  }
  storage.check();
  assert.throws(() => Deno.statSync(`${storage.path}/root/etc`), Deno.errors.NotFound);
});

Deno.test("nothing is written or listed through a symlink, whoever made it", async () => {
  using storage = new Prey();
  using agent = new TestService(storage);
  const victim = `${storage.around}/victim`;
  await agent.change([link("out", victim), link("up", "../../../.."), link("f", `${victim}/f`)]);
  for (const path of ["out/f", "out/new", "out/d/f", "up/out/f"]) {
    await assert.rejects(agent.change([file(path, "x")]), refused, path);
    await agent.change([{ remove: path }]);
    storage.check();
    await assert.rejects(agent.change([folder(path)]), refused, path);
    await assert.rejects(agent.change([link(path, "x")]), refused, path);
  }
  await assert.rejects(
    agent.change([{ ...file("copy", "untouched"), content: undefined, copyFrom: "out/f" }]),
    refused,
  );
  // Over a link, not through it.
  await agent.change([file("f", "mine")]);
  assert.deepEqual((await agent.list()).map((line) => line.split(" ")[0]), ["f", "out", "up"]);
  storage.check();
});

Deno.test("a session's program that puts symlinks in the way of a root gains nothing", async () => {
  using storage = new Prey();
  using agent = new TestService(storage);
  await agent.change([folder("d"), file("d/f", "1")]);
  for (const inTheWay of ["/home", "/home/ann", WS]) {
    Deno.removeSync(storage.at(inTheWay), { recursive: true });
    Deno.symlinkSync(`${storage.around}/victim`, storage.at(inTheWay));
    assert.deepEqual(await agent.list(), [], inTheWay);
    await agent.change([folder("d"), file("d/f", "1")]);
    assert.deepEqual((await agent.list()).length, 2);
    storage.check();
  }
});

Deno.test("folders that become symlinks between two records of one change are found out", async () => {
  using storage = new Prey();
  using agent = new TestService(storage);
  const victim = `${storage.around}/victim`;
  await assert.rejects(
    agent.change([folder("d"), file("d/f", "1"), { remove: "d" }, link("d", victim), file("d/f", "x")]),
    refused,
  );
  await assert.rejects(agent.change([link("e", victim), file("e/f", "x")]), refused);
  await agent.change([link("g", victim), folder("g"), file("g/f", "x")]);
  storage.check();
});

Deno.test("a folder that the session's program swaps for a symlink between two messages is not written through", async () => {
  using storage = new Prey();
  using agent = new TestService(storage);
  const call = await agent.call("Apply");
  await agent.send(call, { start: {} });
  await agent.send(call, { records: [folder("d"), file("d/before", "x")] });
  const at = storage.at(`${WS}/d`);
  await eventually(() => isThere(`${at}/before`));
  Deno.removeSync(at, { recursive: true });
  Deno.symlinkSync(`${storage.around}/victim`, at);
  await agent.send(call, { records: [file("d/f", "x"), { remove: "d/f" }, folder("d/new")] });
  call.end();
  await assert.rejects(answer(call), refused);
  storage.check();
});

Deno.test("what is not what its digest says is not put in place", async () => {
  using storage = new Prey();
  using agent = new TestService(storage);
  const right = file("f", "right");
  await agent.change([right]);
  const other = digestOf(Buffer.from("other"));
  const lies: TreeRecord[][] = [
    [{ ...right, content: Buffer.from("wrong") }],
    [file("f", "lying", { digest: other })],
    [file("f", "longer", { size: 3 })],
    [file("f", "short", { size: 1000 })],
    [file("f", "nothing", { digest: undefined, size: 3 })],
    [{ ...file("f", "other"), digest: digestOf(Buffer.from("x")) }],
    pieces("f", Buffer.alloc(2 << 20, "x")).slice(0, 3).concat({ content: Buffer.from("end"), more: false }),
    [{ ...file("f", "right", { digest: other }), content: undefined, copyFrom: "f" }],
    [{ ...right, offset: 3 }],
    [{ ...file("f", "x".repeat(1000)), offset: 2 ** 40 }],
    [{ ...right, more: true }, { content: Buffer.from("!".repeat(100)), more: true }],
    [{ content: Buffer.from("no beginning"), more: false }],
    [{ ...right, more: true }, file("g", "not its turn")],
  ];
  for (const [i, records] of lies.entries()) await assert.rejects(agent.change(records), refused, `lie ${i}`);
  assert.equal(Deno.readTextFileSync(storage.at(`${WS}/f`)), "right");
  assert.equal((await agent.list()).length, 1);
});

Deno.test("the beginning of a file that was sent under another's digest does no harm", async () => {
  using storage = new Prey();
  using agent = new TestService(storage);
  const content = Buffer.alloc(17 << 20, "honest");
  const lie = pieces("large", content).slice(0, 4).map((r) => ({ ...r, content: Buffer.alloc(256 << 10, "lie") }));
  await assert.rejects(agent.change([...lie, file("g", "cut off")]), refused);
  const offset = (await agent.open(WS)).partials.get(digestOf(content).toHex())!;
  assert.equal(offset, 1 << 20);
  await assert.rejects(agent.change(pieces("large", content, offset)), refused);
  assert.equal((await agent.open(WS)).partials.size, 0);
  await agent.change(pieces("large", content));
});

Deno.test("messages that are none, or in the wrong order, are refused", async () => {
  using storage = new Prey();
  using agent = new TestService(storage);
  await assert.rejects(agent.apply({ records: [file("f", "x")] }), refused);
  const garbage = [new Uint8Array(), Buffer.from([255, 255]), Buffer.from("garbage"), encodeFields([[7, "x"]])];
  for (const raw of garbage) await assert.rejects(agent.apply({ start: {} }, { raw }), refused);
  for (const raw of garbage.slice(1, 3)) {
    await assert.rejects(agent.apply({ start: {} }, { raw: batchMessage(raw) }), refused);
  }
  await assert.rejects(
    agent.apply({ raw: encodeFields([[1, Buffer.from([10, 200])]]) }),
    status(Status.INVALID_ARGUMENT),
  );
  const huge = { raw: Buffer.alloc(5 << 20) };
  await assert.rejects(agent.apply({ start: {} }, huge), status(Status.RESOURCE_EXHAUSTED, /larger than/));
  for (const method of ["Open", "Fetch"]) {
    const call = await agent.call(method);
    void call.send(Buffer.from([10, 200]));
    call.end();
    await assert.rejects(call.responses()[Symbol.asyncIterator]().next(), status(Status.INVALID_ARGUMENT));
  }
  storage.check();
  assert.deepEqual(agent.log, []);
});

Deno.test("a bomb is not unpacked, nor are many of them in one message", async () => {
  using storage = new Prey();
  using agent = new TestService(storage);
  const bomb = (said: number, bytes: number) =>
    encodeFields([[1, 1], [2, said], [3, zstdCompressSync(Buffer.alloc(bytes))]]);
  for (const [said, bytes] of [[1 << 30, 1 << 26], [1000, 1 << 26], [4 << 20, 1 << 26], [1 << 20, 1000]]) {
    await assert.rejects(agent.apply({ start: {} }, { raw: batchMessage(bomb(said, bytes)) }), refused);
  }
  const honest = batchMessage(bomb(4 << 20, 4 << 20));
  const many = Buffer.concat(Array.from({ length: 10_000 }, () => honest));
  assert.ok(many.length < 4 << 20);
  const before = Deno.memoryUsage().rss;
  await assert.rejects(agent.apply({ start: {} }, { raw: many }), refused);
  assert.ok(Deno.memoryUsage().rss - before < 500 << 20);
});

Deno.test("huge counts meet a limit", async () => {
  using storage = new Prey();
  using agent = new TestService(storage, { limit: 100 });
  const many = Array.from({ length: 101 }, (_, i) => folder(`d${i}`));
  await assert.rejects(agent.change(many), status(Status.RESOURCE_EXHAUSTED, /more than 100 files/));
  assert.equal((await agent.list()).length, 100);
  await agent.change([file("d7", "over another")]);
  Deno.mkdirSync(storage.at(`${WS}/one more`));
  await assert.rejects(agent.list(), status(Status.RESOURCE_EXHAUSTED, /more than 100 files/));
  const roots = Array.from({ length: 10_001 }, (_, i) => `/r${i}`);
  await assert.rejects(agent.open(...roots), status(Status.INVALID_ARGUMENT, /10000 roots/));
});

Deno.test("device nodes, sockets and pipes that the session has made are not the developer's, and can be replaced", async () => {
  using storage = new Prey();
  using agent = new TestService(storage);
  await agent.change([folder("d")]);
  for (const name of ["f", "d/f"]) await new Deno.Command("mkfifo", { args: [storage.at(`${WS}/${name}`)] }).output();
  assert.deepEqual(await agent.list(), ["d/ 755"]);
  await agent.change([file("f", "1"), folder("d/f")]);
  assert.equal((await agent.list()).length, 3);
});

Deno.test("a single file's root is this file and nothing beside it", async () => {
  using storage = new Prey();
  using agent = new TestService(storage);
  const start = { root: "/home/ann/.bazelrc", singleFile: true };
  await agent.change([file("f", "1")]);
  for (const record of [file("ws", "x"), file("ws/f", "x"), file(".bazelrc/f", "x"), folder("d")]) {
    await assert.rejects(agent.change([record], start), refused);
  }
  await agent.change([{ remove: "ws" }], start);
  assert.equal((await agent.list()).length, 1);
});
