/** A user asks for a server, and names as workspace or output base what is not the user's. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { SESSION_KINDS, TestAgent, TestWorkspace } from "../../agent/test_agent.ts";
import { OrchestratorPrograms } from "../../orchestrator/testing/orchestrator_programs.ts";
import { Code, RpcError } from "../../proto/transport/rpc/client.ts";
import { randomToken } from "../../proto/base/state_directory.ts";
import { repoHash } from "../../proto/bazel/workspace.ts";

/** All that is below a folder, with what the files hold. */
function contents(folder: string): Record<string, string> {
  const found: Record<string, string> = {};
  for (const { name, isDirectory } of Deno.readDirSync(folder)) {
    const path = join(folder, name);
    if (isDirectory) Object.assign(found, { [path]: "folder" }, contents(path));
    else found[path] = new TextDecoder("latin1").decode(Deno.readFileSync(path));
  }
  return found;
}

const refused = (pattern: RegExp) => (e: unknown) => {
  assert(e instanceof RpcError, String(e));
  assert([Code.INVALID_ARGUMENT, Code.PERMISSION_DENIED].includes(e.code), e.message);
  assert.match(e.message, pattern);
  assert.doesNotMatch(e.message, /\n/);
  return true;
};

Deno.test("whoever names the authority's key as workspace or output base gets one sentence, and the key stays", async () => {
  await using world = new OrchestratorPrograms();
  const program = await world.start();
  using client = world.client(program);
  const keys = join(world.stateDir, "keys");
  const before = contents(keys);
  assert(Object.keys(before).length >= 4);
  const key = join(keys, "authority.pem");
  const detour = `/x/../..${key}`;
  const link = join(world.stateDir, "../link");
  await Deno.symlink(world.stateDir, link);
  const ask = (sourcePath: string, ...startupOptions: string[]) =>
    client.getServer({
      repoHash: repoHash(sourcePath),
      sessionId: randomToken(),
      sourcePath,
      startupOptions: ["--x", ...startupOptions],
    });
  const form = /must be a path without|must be an absolute path|needs its value/;
  for (const path of [detour, `${key}/`, `/${key}`, key.replace("/keys/", "/./keys/"), "keys", "/"]) {
    await assert.rejects(ask(path), refused(form), path);
  }
  for (const name of ["output_base", "output_user_root", "install_base", "workspace_directory", "failure_detail_out"]) {
    await assert.rejects(ask("/ws", `--${name}=${detour}`), refused(form), name);
    await assert.rejects(ask("/ws", `--${name}=${detour}`, `--${name}=/ob`), refused(form), "the first of two");
    await assert.rejects(ask("/ws", `--${name}=/ob`, `--${name}=${detour}`), refused(form), "the second of two");
    await assert.rejects(ask("/ws", `--${name}`, detour), refused(form), "as two arguments");
  }
  const storage = join(world.stateDir, "storage/bob/ws");
  for (const path of [key, keys, world.stateDir, storage, join(link, "keys"), join(link, "new/folder")]) {
    await assert.rejects(ask(path), refused(/^The workspace .* no session may see/), path);
    await assert.rejects(ask("/ws", `--output_base=${path}`), refused(/^The output base .* no session may see/), path);
    await assert.rejects(ask("/ws", "--output_base=/ob", `--output_base=${path}`), refused(/no session may see/), path);
  }
  assert.deepEqual(contents(keys), before);
  assert(!Array.from(Deno.readDirSync(world.stateDir)).some(({ name }) => name === "new"));
  // The session's own output base is not in the way of all this.
  assert.equal((await ask("/ws", "--output_base=/ob")).session?.sourcePath, "/ws");
});

for (const [whose, options] of SESSION_KINDS) {
  Deno.test(`an agent ${whose} that is told to show keys or another's outputs refuses, by whatever name`, async () => {
    await using workspace = await TestWorkspace.make();
    const state = join(workspace.root, "state");
    const secrets = [join(state, "keys/authority.pem"), join(state, "storage/bob/out/secret")];
    for (const secret of secrets) {
      await Deno.mkdir(join(secret, ".."), { recursive: true });
      await Deno.writeTextFile(secret, "a secret");
    }
    const before = contents(state);
    await Deno.symlink(join(state, "keys"), join(workspace.root, "link"));
    await Deno.symlink(join(state, "keys/later"), join(workspace.root, "dangling"));
    const start = async (change: { sourcePath?: string; outputBase?: string }) => {
      await using agent = await TestAgent.start(workspace, {
        storage: join(state, "storage/ann/ws"),
        hidden: [state],
        startupOptions: change.outputBase === undefined ? [] : [`--output_base=${change.outputBase}`],
        sourcePath: change.sourcePath,
        ...options,
      });
      using supervisor = agent.supervise();
      const { case: kind, value } = await supervisor.find((m) => m.case === "failed" || m.case === "ready");
      assert(kind === "failed", JSON.stringify(value));
      assert.match(value.reason, /is or lies in what no session may see/);
      assert.doesNotMatch(value.reason, /\n/);
    };
    await start({ sourcePath: join(state, "keys") });
    await start({ sourcePath: join(workspace.root, "link") });
    await start({ outputBase: join(workspace.root, "dangling/ob") });
    await start({ outputBase: join(state, "storage/bob/out") });
    for (const [path, text] of Object.entries(before)) {
      assert.equal(Deno.statSync(path).isDirectory ? "folder" : Deno.readTextFileSync(path), text);
    }
    await assert.rejects(Deno.stat(join(state, "keys/later")));
  });
}
