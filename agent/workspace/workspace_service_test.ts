import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { createHash, randomBytes } from "node:crypto";
import { TreeEntryKind } from "../../proto/contract/gen/rbs/v1/tree_pb.ts";
import { Status, StatusError } from "../../proto/transport/grpc/calls.ts";
import { digestOf } from "../../proto/tree/read.ts";
import {
  answer,
  batchMessage,
  file,
  folder,
  link,
  OUTPUT_BASE,
  pieces,
  status,
  Storage,
  TestService,
  WS,
} from "./testing.ts";
import { BatchEncoder } from "../../proto/tree/batch.ts";
import { eventually } from "../../tests/support/eventually.ts";

const short = (content: string) => digestOf(Buffer.from(content)).toHex().slice(0, 8);

Deno.test("what was applied is in place, and listed with digests", async () => {
  using storage = new Storage();
  using agent = new TestService(storage);
  assert.deepEqual(await agent.list(), []);
  const applied = await agent.change([
    folder("a", 0o750),
    folder("a/empty", 0o555),
    file("a/tool", "#!/bin/sh\n", { mode: 0o755 }),
    file("a/caf\u00e9", ""),
    link("a/dangling", "../no/where"),
    file("\udcff\udcfe raw", "raw"),
    file("BUILD", "x"),
  ]);
  assert.equal(applied.generation, agent.workspace.generation);
  assert.deepEqual([applied.files, applied.bytes], [7, 14]);
  const info = Deno.statSync(storage.at(`${WS}/a/tool`));
  assert.equal(info.mode! & 0o7777, 0o755);
  assert.equal(info.mtime!.getTime(), 1_700_000_000_123);
  assert.deepEqual(await agent.list(), [
    `BUILD 644 1 ${short("x")}`,
    "a/ 750",
    `a/caf\u00e9 644 0 ${short("")}`,
    "a/dangling -> ../no/where",
    "a/empty/ 555",
    `a/tool 755 10 ${short("#!/bin/sh\n")}`,
    `\udcff\udcfe raw 644 3 ${short("raw")}`,
  ]);
  assert.deepEqual(agent.log, [], "nothing was read for its digest");
});

Deno.test("removals, renames and changes of type", async () => {
  using storage = new Storage();
  using agent = new TestService(storage);
  await agent.change([folder("a"), folder("a/b"), file("a/b/f", "1"), file("g", "2"), link("l", "g"), folder("d")]);
  await agent.change([
    { remove: "a" },
    file("d", "now a file"),
    folder("g"),
    file("g/in", "3"),
    { remove: "never there" },
    { ...file("L", ""), content: undefined, copyFrom: "g/in", entry: file("L", "3").entry },
    link("l", "elsewhere"),
  ]);
  assert.deepEqual(await agent.list(), [
    `L 644 1 ${short("3")}`,
    `d 644 10 ${short("now a file")}`,
    "g/ 755",
    `g/in 644 1 ${short("3")}`,
    "l -> elsewhere",
  ]);
});

Deno.test("the generation is another one after each change, and only then", async () => {
  using storage = new Storage();
  using agent = new TestService(storage);
  const { generation } = await agent.change([folder("d")]);
  await agent.change([]);
  assert.equal((await agent.open(WS)).generation, generation);
  const changed = await agent.change([file("f", "1")]);
  assert.notEqual(changed.generation, generation);
  assert.equal((await agent.open(WS)).generation, changed.generation);
  await assert.rejects(
    agent.change([file("f", "2")], { generation }),
    (e) => status(Status.FAILED_PRECONDITION)(e) && (e as { details: object }).details !== undefined,
  );
  assert.deepEqual(await agent.list(), ["d/ 755", `f 644 1 ${short("1")}`]);
});

Deno.test("one change of several roots: folders, single files, and such that others lie in", async () => {
  using storage = new Storage();
  using agent = new TestService(storage);
  const { generation, manifests } = await agent.open(WS, "/home/ann/.bazelrc", "/data/lib", "/usr/lib/x", "/home/ann");
  assert.deepEqual(manifests.map(({ root }) => [root.kind, root.refusal !== ""]), [
    [TreeEntryKind.UNSPECIFIED, false],
    [TreeEntryKind.UNSPECIFIED, false],
    [TreeEntryKind.UNSPECIFIED, false],
    [TreeEntryKind.UNSPECIFIED, true],
    [TreeEntryKind.UNSPECIFIED, false],
  ]);
  await agent.apply(
    { start: { generation } },
    { records: [file("f", "1")] },
    { start: { generation, root: "/home/ann/.bazelrc", singleFile: true, readOnly: true } },
    { records: [file(".bazelrc", "build -k")] },
    { start: { generation, root: "/data/lib", readOnly: true } },
    { records: [file("lib", "named as its folder")] },
  );
  assert.deepEqual(await agent.list("/home/ann/.bazelrc"), [`.bazelrc 644 8 ${short("build -k")}`]);
  assert.deepEqual(await agent.list("/data/lib"), [`lib 644 19 ${short("named as its folder")}`]);
  assert.deepEqual(await agent.list("/home/ann"), [
    `.bazelrc 644 8 ${short("build -k")}`,
    "ws/ 755",
    `ws/f 644 1 ${short("1")}`,
  ]);
  const kinds = (await agent.open(WS, "/home/ann/.bazelrc")).manifests.map(({ root }) => root.kind);
  assert.deepEqual(kinds, [TreeEntryKind.DIRECTORY, TreeEntryKind.FILE]);
  assert.deepEqual(agent.workspace.readOnlyRoots, ["/home/ann/.bazelrc", "/data/lib"]);
});

Deno.test("a root that was a file becomes a folder, and the other way round", async () => {
  using storage = new Storage();
  using agent = new TestService(storage);
  const root = "/data/x";
  await agent.change([file("x", "1")], { root, singleFile: true });
  await agent.change([file("y", "2")], { root });
  assert.deepEqual(await agent.list(root), [`y 644 1 ${short("2")}`]);
  await agent.change([{ remove: "y" }, file("x", "3")], { root, singleFile: true });
  assert.deepEqual(await agent.list(root), [`x 644 1 ${short("3")}`]);
  // A folder on the way to a root, too.
  await agent.change([file("z", "4")], { root: "/data/x/y" });
  assert.deepEqual(await agent.list("/data"), ["x/ 755", "x/y/ 755", `x/y/z 644 1 ${short("4")}`]);
});

Deno.test("an empty root is a folder there", async () => {
  using storage = new Storage();
  using agent = new TestService(storage);
  await agent.change([], { root: "/data/empty" });
  assert.ok(Deno.lstatSync(storage.at("/data/empty")).isDirectory);
});

Deno.test("what the session has changed is shown as it is, under another generation", async () => {
  using storage = new Storage();
  using agent = new TestService(storage);
  await agent.open(WS);
  const { generation } = await agent.change([file("f", "1"), file("same", "2")]);
  storage.write(storage.at(`${WS}/f`), "3");
  storage.write(storage.at(`${WS}/MODULE.bazel.lock`), "{}");
  const { generation: now, manifests: [{ entries }] } = await agent.open(WS);
  assert.notEqual(now, generation);
  assert.deepEqual(entries.map(({ path, digest }) => [path, digest!.toHex().slice(0, 8)]), [
    ["MODULE.bazel.lock", short("{}")],
    ["f", short("3")],
    ["same", short("2")],
  ]);
  assert.deepEqual(agent.log, [`${WS}: 3 entries, 2 files were read`]);
  await assert.rejects(agent.change([file("f", "4")], { generation }), status(Status.FAILED_PRECONDITION));
});

Deno.test("Bazel's own links into the output base are no part of the workspace", async () => {
  using storage = new Storage();
  using agent = new TestService(storage);
  await agent.change([file("BUILD", ""), link("mine", "/home/ann/elsewhere")]);
  const { generation } = await agent.open(WS);
  Deno.symlinkSync(`${OUTPUT_BASE}/execroot/ws/bazel-out/k8/bin`, storage.at(`${WS}/bazel-bin`));
  Deno.mkdirSync(storage.at(`${WS}/web`));
  await agent.change([folder("web")]);
  Deno.symlinkSync(`${OUTPUT_BASE}/external/npm/node_modules`, storage.at(`${WS}/web/node_modules`));
  assert.notEqual(generation, (await agent.open(WS)).generation);
  assert.deepEqual(await agent.list(), [`BUILD 644 0 ${short("")}`, "mine -> /home/ann/elsewhere", "web/ 755"]);
});

Deno.test("the place of the output base within a workspace survives all changes of the workspace", async () => {
  using storage = new Storage();
  using agent = new TestService(storage);
  const root = "/home/ann";
  Deno.mkdirSync(storage.at(OUTPUT_BASE), { recursive: true });
  await agent.change([folder(".cache"), file(".cache/other", "1"), folder(".cache/bazel")], { root });
  assert.ok((await agent.list(root)).every((line) => !line.includes("0123")));
  await agent.change([{ remove: ".cache" }], { root });
  assert.ok(Deno.lstatSync(storage.at(OUTPUT_BASE)).isDirectory);
  assert.throws(() => Deno.lstatSync(storage.at("/home/ann/.cache/other")), Deno.errors.NotFound);
  for (const record of [file(".cache", ""), file(".cache/bazel/_bazel_ann/0123", ""), link(".cache/bazel", "x")]) {
    await assert.rejects(agent.change([record], { root }), status(Status.INVALID_ARGUMENT, /output base/));
  }
  await assert.rejects(
    agent.change([file(".cache/bazel/_bazel_ann/0123/lock", "")], { root }),
    status(Status.INVALID_ARGUMENT, /output base/),
  );
});

Deno.test("the next agent knows what the last one had, without reading it again", async () => {
  using storage = new Storage();
  let generation: string;
  {
    using first = new TestService(storage);
    ({ generation } = await first.change([folder("d"), file("d/f", "1"), file("g", "2")], { readOnly: true }));
  }
  using second = new TestService(storage);
  assert.deepEqual(second.workspace.readOnlyRoots, [WS]);
  assert.deepEqual(await second.list(), ["d/ 755", `d/f 644 1 ${short("1")}`, `g 644 1 ${short("2")}`]);
  assert.deepEqual(second.log, [], "nothing was read");
  assert.notEqual(second.workspace.generation, generation);
  await assert.rejects(second.change([], { generation }), status(Status.FAILED_PRECONDITION));
});

Deno.test("a file with the size and time of the one before it is found out by the next agent", async () => {
  using storage = new Storage();
  {
    using first = new TestService(storage);
    await first.change([file("f", "1")]);
  }
  const path = storage.at(`${WS}/f`);
  const { mtime } = Deno.statSync(path);
  storage.write(`${path}.new`, "2");
  Deno.chmodSync(`${path}.new`, 0o644);
  Deno.utimeSync(`${path}.new`, mtime!, mtime!);
  Deno.renameSync(`${path}.new`, path);
  using second = new TestService(storage);
  assert.deepEqual(await second.list(), [`f 644 1 ${short("2")}`]);
});

Deno.test("a file that was replaced before the agent looked at what it had written is read", async () => {
  using storage = new Storage();
  using agent = new TestService(storage, { saveMs: 60_000 });
  await agent.change([file("f", "1")]);
  const path = storage.at(`${WS}/f`);
  const { mtime } = Deno.statSync(path);
  await storage.tick();
  storage.write(`${path}.new`, "2");
  Deno.chmodSync(`${path}.new`, 0o644);
  Deno.utimeSync(`${path}.new`, mtime!, mtime!);
  Deno.renameSync(`${path}.new`, path);
  assert.deepEqual(await agent.list(), [`f 644 1 ${short("2")}`]);
});

Deno.test("an agent that was killed in the middle of a change left all that had come", async () => {
  using storage = new Storage();
  const content = randomBytes(17 << 20);
  {
    using first = new TestService(storage);
    const call = await first.call("Apply");
    await first.send(call, { start: {} });
    await first.send(call, { records: [folder("d"), file("d/f", "1")] });
    await first.send(call, { records: pieces("large", content).slice(0, 40) });
    await eventually(() => partialBytes(storage) === 40 * (256 << 10));
    first.kill();
    await assert.rejects(answer(call), status(Status.UNAVAILABLE));
  }
  // What a killed agent has not put in place, or was writing down.
  storage.write(`${storage.path}/staging/abcdef-7`, "half of it");
  storage.write(`${storage.path}/workspace.index.99-1`, "half of it");
  Deno.removeSync(`${storage.path}/workspace.index`);

  using second = new TestService(storage);
  const { manifests: [{ entries }], partials } = await second.open(WS);
  assert.deepEqual(entries.map(({ path }) => path), ["d", "d/f"]);
  assert.equal(entries[1].digest!.toHex().slice(0, 8), short("1"));
  const offset = partials.get(digestOf(content).toHex())!;
  assert.equal(offset, 40 * (256 << 10));
  assert.equal([...Deno.readDirSync(`${storage.path}/staging`)].length, 1);
  await second.change(pieces("large", content, offset));
  assert.deepEqual(digestOf(Deno.readFileSync(storage.at(`${WS}/large`))), digestOf(content));
  assert.equal((await second.open(WS)).partials.size, 0);
});

Deno.test("what is known is written down while a large change comes in", async () => {
  using storage = new Storage();
  {
    using first = new TestService(storage, { saveMs: 1 });
    const call = await first.call("Apply");
    await first.send(call, { start: {} });
    await first.send(call, { records: [folder("d"), file("d/f", "1")] });
    await eventually(() => isThere(`${storage.path}/workspace.index`));
    first.workspace.save = () => {};
    first.kill();
    await assert.rejects(answer(call), status(Status.UNAVAILABLE));
  }
  using second = new TestService(storage);
  assert.deepEqual(await second.list(), ["d/ 755", `d/f 644 1 ${short("1")}`]);
  assert.deepEqual(second.log, [], "nothing was read");
});

Deno.test("files that came without a digest get theirs when what is known is written down", async () => {
  using storage = new Storage();
  {
    using first = new TestService(storage, { saveMs: 1 });
    await first.change([file("f", "1", { digest: undefined })]);
    await eventually(() => isThere(`${storage.path}/workspace.index`));
    first.workspace.save = () => {};
  }
  using second = new TestService(storage);
  assert.deepEqual(await second.list(), [`f 644 1 ${short("1")}`]);
  assert.deepEqual(second.log, [], "nothing was read");
  // Asked before that, it reads them at once.
  await second.change([file("g", "2", { digest: undefined })]);
  assert.deepEqual(await second.list(), [`f 644 1 ${short("1")}`, `g 644 1 ${short("2")}`]);
});

Deno.test("a fresh root must be empty, and is written without a detour", async () => {
  using storage = new Storage();
  using agent = new TestService(storage);
  const records = [folder("d"), file("d/f", "1", { digest: undefined }), file("d/g", "2"), link("l", "d")];
  const { generation, files } = await agent.change(records, { fresh: true });
  assert.equal(generation, agent.workspace.generation);
  assert.equal(files, 4);
  const expected = ["d/ 755", `d/f 644 1 ${short("1")}`, `d/g 644 1 ${short("2")}`, "l -> d"];
  assert.deepEqual(await agent.list(), expected);
  const refused = (e: unknown) => e instanceof StatusError && e.details["rbs-reason"] === "not-empty";
  await assert.rejects(agent.change([file("d/f", "3")], { fresh: true }), refused);
  assert.deepEqual(await agent.list(), expected);
  // Also what nobody knows of counts.
  storage.write(storage.at("/home/ann/other/stray"), "x");
  await assert.rejects(agent.change([], { root: "/home/ann/other", fresh: true }), refused);
});

Deno.test("a cut connection: what came before stays, and the next call goes on", async () => {
  using storage = new Storage();
  using agent = new TestService(storage);
  const before = (await agent.open(WS)).generation;
  const content = randomBytes(20 << 20);
  using other = agent.connect();
  const call = await agent.call("Apply", other);
  await agent.send(call, { start: {} });
  await agent.send(call, { records: [file("f", "1"), ...pieces("large", content).slice(0, 60)] });
  await eventually(() => partialBytes(storage) === 60 * (256 << 10));
  other.close();
  await assert.rejects(answer(call), status(Status.UNAVAILABLE));

  const { generation, manifests: [{ entries }], partials } = await agent.open(WS);
  assert.notEqual(generation, before);
  assert.deepEqual(entries.map(({ path }) => path), ["f"]);
  const offset = partials.get(digestOf(content).toHex())!;
  const sent = await agent.change(pieces("large", content, offset), { generation });
  assert.equal(sent.bytes, content.length - offset);
  assert.deepEqual(digestOf(Deno.readFileSync(storage.at(`${WS}/large`))), digestOf(content));
});

Deno.test("of two changes at once, the second waits and finds another generation", async () => {
  using storage = new Storage();
  using agent = new TestService(storage, { quietMs: 60_000 });
  const { generation } = await agent.open(WS);
  const first = await agent.call("Apply");
  await agent.send(first, { start: { generation } });
  await agent.send(first, { records: [file("f", "1")] });
  await eventually(() => agent.workspace.generation !== generation);
  const second = agent.change([file("f", "2")], { generation });
  second.catch(() => {});
  const third = agent.open(WS);
  await agent.send(first, { records: [file("g", "1")] });
  first.end();
  await answer(first);
  await assert.rejects(second, status(Status.FAILED_PRECONDITION));
  assert.deepEqual((await third).manifests[0].entries.map(({ path }) => path), ["f", "g"]);
});

Deno.test("a change whose proxy has fallen silent does not keep others waiting", async () => {
  using storage = new Storage();
  using agent = new TestService(storage, { quietMs: 20 });
  const { generation } = await agent.open(WS);
  const silent = await agent.call("Apply");
  await agent.send(silent, { start: { generation } });
  await agent.send(silent, { records: [file("f", "1")] });
  await eventually(() => agent.workspace.generation !== generation);
  assert.deepEqual(await agent.list(), [`f 644 1 ${short("1")}`]);
  await assert.rejects(answer(silent), status(Status.UNAVAILABLE, /silent/));
});

Deno.test("who took the session over does not wait for who had it before", async () => {
  using storage = new Storage();
  using agent = new TestService(storage, { quietMs: 60_000 });
  const { generation } = await agent.open(WS);
  const older = await agent.call("Apply");
  await agent.send(older, { start: { generation } });
  await agent.send(older, { records: [file("f", "1")] });
  await eventually(() => agent.workspace.generation !== generation);
  agent.epoch = 2;
  assert.deepEqual(await agent.list(), [`f 644 1 ${short("1")}`]);
  await assert.rejects(answer(older), status(Status.UNAVAILABLE));
});

Deno.test("from the first record of a change on, the generation before is not the present one", async () => {
  using storage = new Storage();
  using agent = new TestService(storage);
  const { generation } = await agent.open(WS);
  const call = await agent.call("Apply");
  await agent.send(call, { start: { generation } });
  await agent.send(call, { records: [folder("a"), folder("b")] });
  await eventually(() => isThere(storage.at(`${WS}/b`)));
  assert.notEqual(agent.workspace.generation, generation);
  call.end();
  await answer(call);
});

Deno.test("many files, and one of several MB, arrive whole when they are compressed", async () => {
  using storage = new Storage();
  using agent = new TestService(storage);
  const large = Buffer.alloc(5 << 20, "compresses well ");
  const call = await agent.call("Apply");
  await agent.send(call, { start: {} });
  const encoder = new BatchEncoder();
  encoder.compress = true;
  const many = Array.from({ length: 300 }, (_, i) => file(`f${i}`, `content ${i}`));
  for (const record of [...many, ...pieces("large", large)]) {
    const batch = encoder.add(record);
    if (batch) await call.send(batchMessage(batch));
  }
  const last = encoder.flush();
  if (last) await call.send(batchMessage(last));
  call.end();
  assert.deepEqual((await answer(call)).files, 301);
  const { manifests: [{ entries }] } = await agent.open(WS);
  assert.equal(entries.length, 301);
  const digests = new Map(entries.map(({ path, digest }) => [path, digest!.toHex()]));
  assert.equal(digests.get("large"), createHash("sha256").update(large).digest("hex"));
  for (const { entry } of many) assert.equal(digests.get(entry!.path), entry!.digest!.toHex());
});

/** How much is here of the one file that is coming. */
function partialBytes(storage: Storage): number {
  try {
    const [{ name }] = [...Deno.readDirSync(`${storage.path}/staging`)].filter((f) => f.name.startsWith("partial-"));
    return Deno.lstatSync(`${storage.path}/staging/${name}`).size;
  } catch {
    return 0;
  }
}

function isThere(path: string): boolean {
  try {
    return Deno.lstatSync(path) !== undefined;
  } catch {
    return false;
  }
}
