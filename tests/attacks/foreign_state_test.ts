/** Another user of the machine prepares what an orchestrator of root would take for its own. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { ROOT } from "../support/repository.ts";
import { tempDir } from "../support/temp_dir.ts";

const ANOTHER = 4711;

/** Starts an orchestrator, which must end by itself. */
async function start(state: string, ...flags: string[]): Promise<{ code: number; stderr: string }> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--frozen", "--no-check", join(ROOT, "orchestrator/main.ts")].concat([
      ...["--local-mode", "--port=0", `--state-dir=${state}`, `--agent=${Deno.execPath()}`, ...flags],
    ]),
    env: { NO_COLOR: "1", USER: "root" },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const stderr = new Response(child.stderr).text();
  // One that is ready has taken it over, and is ended.
  for await (const part of child.stdout.pipeThrough(new TextDecoderStream())) {
    if (part.includes("ready")) child.kill("SIGKILL");
  }
  return { code: (await child.status).code, stderr: await stderr };
}

Deno.test({
  name: "an orchestrator of root takes over no state directory, keys or authority of another user's",
  ignore: Deno.uid() !== 0,
  async fn() {
    await using temp = await tempDir();
    const state = temp.join("folder/state");
    await Deno.mkdir(state, { recursive: true, mode: 0o700 });
    // The first start makes keys, which are then another's.
    assert.notEqual((await start(state)).code, 1);
    const keys = join(state, "keys");
    const authority = join(keys, "authority.pem");
    const made = await Deno.readTextFile(authority);
    for (const part of [state, keys, authority, temp.join("folder")]) {
      await Deno.chown(part, ANOTHER, ANOTHER);
      const { code, stderr } = await start(state);
      assert.equal(code, 1, `${part}: ${stderr}`);
      assert.match(stderr, /^orchestrator: The [^\n]*another user \(uid 4711\)[^\n]*\n$/);
      await Deno.chown(part, 0, 0);
    }
    await Deno.chmod(temp.join("folder"), 0o777);
    const { code, stderr } = await start(state);
    assert.equal(code, 1, stderr);
    assert.match(stderr, /^orchestrator: [^\n]*which other users can write \(mode 777\)[^\n]*\n$/);
    await Deno.chmod(temp.join("folder"), 0o755);
    assert.equal(await Deno.readTextFile(authority), made);

    const key = temp.join("ca.key");
    await Deno.writeTextFile(key, "", { mode: 0o600 });
    await Deno.chown(key, ANOTHER, ANOTHER);
    await Deno.writeTextFile(temp.join("ca.crt"), "");
    const outside = await start(state, `--ca-key=${key}`, `--ca-cert=${temp.join("ca.crt")}`);
    assert.match(outside.stderr, /ca\.key belongs to another user \(uid 4711\)/);
    assert.notEqual((await start(state)).code, 1, "what is root's own serves as ever");
  },
});
