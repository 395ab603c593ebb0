import assert from "node:assert/strict";
import type { RbsError } from "../../proto/base/errors.ts";
import { encodeFields } from "../../proto/base/protobuf_fields.ts";
import { encodeEntry } from "../../proto/tree/entry.ts";
import { tempDir } from "../../tests/support/temp_dir.ts";
import { type Made, OutputsAgent, sha256 } from "../testing/outputs_agent.ts";
import { OutputsHome } from "./outputs_sync.ts";

/** A developer's machine with a workspace, and an agent on which a command may write MODULE.bazel and all of `v`. */
async function laptop() {
  const temp = await tempDir();
  const ob = temp.join("ob"), ws = temp.join("ws");
  for (const folder of [`${ob}/server`, ws]) Deno.mkdirSync(folder, { recursive: true });
  const agent = new OutputsAgent();
  const home = new OutputsHome({ outputBase: ob, workspace: ws });
  const edited = new Set<string>();
  const said: string[] = [];
  let written = 0;
  const it = {
    ...{ ob, ws, temp, agent, edited, said },
    /** How often the agent was said to have other files than it was sent. */
    written: () => written,
    read: (path: string) => Deno.readTextFileSync(`${ws}/${path}`),
    write(path: string, text: string) {
      Deno.mkdirSync(`${ws}/${path}`.replace(/\/[^/]*$/, ""), { recursive: true });
      Deno.writeTextFileSync(`${ws}/${path}`, text);
    },
    /** Paths are relative to the workspace. */
    async take(made: Made[], gone: string[] = []) {
      said.length = 0;
      const absolute = (path: string) => path.startsWith("/") ? path : `${ws}/${path}`;
      const entries = made.map(({ content = "", ...given }) => {
        const bytes = new TextEncoder().encode(content as string), path = absolute(given.path);
        const kind = given.kind ?? (given.target === undefined ? "file" : "symlink");
        if (kind === "file") agent.contents.set(path, bytes);
        return encodeEntry({
          kind,
          mode: kind === "symlink" ? 0 : kind === "file" ? 0o644 : 0o755,
          size: bytes.length,
          mtimeMs: kind === "file" ? 1_700_000_000_123 : 0,
          ...kind === "file" && { digest: sha256(bytes) },
          ...given,
          path,
        });
      });
      const part = encodeFields([
        ...entries.map((entry): [number, Uint8Array] => [8, entry]),
        ...gone.map((path): [number, string] => [9, absolute(path)]),
      ]);
      await home.take([part], {
        link: agent.link,
        say: (line) => said.push(line),
        signal: new AbortController().signal,
        sources: {
          files: [`${ws}/MODULE.bazel`, `${ws}/v/VENDOR.bazel`],
          folders: [`${ws}/v`],
          asSent: (path) => !edited.has(path.slice(ws.length + 1)),
          onWritten: () => written++,
        },
      });
    },
    async [Symbol.asyncDispose]() {
      agent[Symbol.dispose]();
      await temp[Symbol.asyncDispose]();
    },
  };
  return it;
}

Deno.test("what a command writes into the sources comes home, and what it removes there goes", async () => {
  await using t = await laptop();
  t.write("MODULE.bazel", "old");
  t.write("v/gone/file", "gone");
  t.write("v/kept/file", "kept");
  await t.take([
    { path: "MODULE.bazel", content: "new" },
    { path: "v/a~", kind: "directory" },
    { path: "v/a~/tool", content: "tool", mode: 0o755 },
    { path: "v/a~/deep/link", target: "../tool" },
    { path: "v/bazel-external", target: `${t.ob}/external` },
  ], ["v/gone", "v/gone/file", "v/kept"]);
  assert.equal(t.read("MODULE.bazel"), "new");
  assert.equal(t.read("v/a~/deep/link"), "tool");
  assert.equal(Deno.statSync(`${t.ws}/v/a~/tool`).mode! & 0o777, 0o755);
  assert.equal(Deno.statSync(`${t.ws}/v/a~/tool`).mtime!.getTime(), 1_700_000_000_123);
  assert.equal(Deno.readLinkSync(`${t.ws}/v/bazel-external`), `${t.ob}/external`);
  assert.deepEqual([...Deno.readDirSync(`${t.ws}/v`)].map(({ name }) => name).sort(), ["a~", "bazel-external", "kept"]);
  assert.deepEqual([t.said, t.written()], [[], 1]);
});

Deno.test("what the developer has edited meanwhile stays, and is named once", async () => {
  await using t = await laptop();
  const names = ["MODULE.bazel", ...[1, 2, 3].map((i) => `v/${i}`)];
  for (const name of names) {
    t.write(name, "mine");
    t.edited.add(name);
  }
  t.write("v/removed", "mine");
  t.edited.add("v/removed");
  await t.take([...names.map((path) => ({ path, content: "theirs" })), { path: "v/other", content: "x" }], [
    "v/removed",
  ]);
  for (const name of [...names, "v/removed"]) assert.equal(t.read(name), "mine");
  assert.equal(t.read("v/other"), "x");
  assert.match(
    t.said.join(""),
    /^rbs: warning: The command has changed \S+\/v\/removed, \S+, \S+ and 2 more on .*, and so have you .*: yours stays, .*\.\n$/,
  );
  // The very same edit is none.
  await t.take([{ path: "MODULE.bazel", content: "mine" }]);
  assert.deepEqual(t.said, []);
});

Deno.test("sources that a command may not write are refused", async () => {
  await using t = await laptop();
  for (
    const path of [
      "BUILD",
      "w/x",
      "v2",
      "../v/x",
      "/etc/passwd",
      `${t.ob}/x`,
      "v/.git/config",
      "v/a/.GIT",
      "v/../BUILD",
      "MODULE.bazel/x",
    ]
  ) {
    for (const [made, gone] of [[[{ path, content: "x" }], []], [[], [path]]] as const) {
      await assert.rejects(t.take([...made], [...gone]), (e: RbsError) => e.exitCode === 37, path);
    }
  }
  assert.deepEqual([...Deno.readDirSync(t.ws)], []);
});

Deno.test("nothing is written through a symlink, and none leads where the next sync would follow it", async () => {
  await using t = await laptop();
  Deno.mkdirSync(t.temp.join("outside"));
  t.write("v/x", "x");
  Deno.symlinkSync(t.temp.join("outside"), `${t.ws}/v/mine`);
  Deno.mkdirSync(`${t.ws}/v/folder`);
  const targets = ["/etc", "../..", "../../outside", "..", "x/../../..", "x/..", `${t.ws}/BUILD`, `${t.ob}/server`];
  await t.take([
    { path: "v/mine/file", content: "x" },
    { path: "v/folder", content: "x" },
    ...targets.map((target, i) => ({ path: `v/l${i}`, target })),
  ]);
  assert.deepEqual([...Deno.readDirSync(t.temp.join("outside"))], []);
  const names = [...Deno.readDirSync(`${t.ws}/v`)].map(({ name }) => name).sort();
  assert.deepEqual(names, ["folder", "mine", "x"]);
  assert.match(t.said.join(""), /v\/mine\/file was not copied back: \S+\/v\/mine is no folder\.\n/);
  assert.match(t.said.join(""), /v\/folder was not copied back: it is a folder here\.\n/);
  assert.match(t.said.join(""), /rbs: warning: 7 more sources were not copied back\.\n/);
  // What the same command makes a symlink is no way either.
  await assert.rejects(
    t.take([{ path: "v/l", target: "x" }, { path: "v/l/y", content: "x" }]),
    /leads through a symlink/,
  );
});

Deno.test("where a command writes single files, and where its folders are, no symlink comes", async () => {
  await using t = await laptop();
  t.write("MODULE.bazel", "mine");
  t.write("kept/file", "mine");
  const evil = `${t.ob}/external/evil`;
  await t.take([
    { path: "MODULE.bazel", target: `${evil}/MODULE.bazel` },
    { path: "v/VENDOR.bazel", target: `${evil}/VENDOR.bazel` },
    { path: "v/link", target: `${evil}/x` },
  ]);
  assert.equal(t.read("MODULE.bazel"), "mine");
  assert.deepEqual([...Deno.readDirSync(`${t.ws}/v`)].map(({ name }) => name), ["link"]);
  assert.match(t.said.join(""), /MODULE\.bazel was not copied back: the command writes a regular file there, .*\.\n/);
  assert.match(
    t.said.join(""),
    /v\/VENDOR\.bazel was not copied back: the command writes a regular file there, .*\.\n/,
  );
  Deno.removeSync(`${t.ws}/MODULE.bazel`);
  await t.take([{ path: "MODULE.bazel", kind: "directory" }]);
  assert.match(t.said.join(""), /MODULE\.bazel was not copied back: the command writes a regular file there, .*\.\n/);
  Deno.removeSync(`${t.ws}/v`, { recursive: true });
  await t.take([{ path: "v", target: evil }]);
  assert.match(t.said.join(""), /\/v was not copied back: the command writes into a folder there, .*\.\n/);
  assert.deepEqual([...Deno.readDirSync(t.ws)].map(({ name }) => name), ["kept"]);
});

Deno.test("an edit while the content is fetched stays, and is named", async () => {
  await using t = await laptop();
  t.write("MODULE.bazel", "old");
  t.write("v/kept", "old");
  t.agent.script = async (request, call) => {
    t.write("MODULE.bazel", "mine");
    t.edited.add("MODULE.bazel");
    await t.agent.give(request, call);
  };
  await t.take([{ path: "MODULE.bazel", content: "theirs" }, { path: "v/kept", content: "theirs" }]);
  assert.deepEqual([t.read("MODULE.bazel"), t.read("v/kept")], ["mine", "theirs"]);
  assert.match(
    t.said.join(""),
    /^rbs: warning: The command has changed \S+\/MODULE\.bazel on .*: yours stays, .*\.\n$/,
  );
  assert.ok(![...Deno.readDirSync(`${t.ob}/rbs`)].some(({ name }) => name.startsWith("named-")));
});
