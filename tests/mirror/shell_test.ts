/** What a Bazel server inherits from the shell in which its client was called. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { IS_FURTHER } from "../support/bazels.ts";
import { run } from "../support/run.ts";
import { ended } from "./support/processes.ts";
import { BAZEL, BAZELS, Exit, type Rig, rig, test, testEach } from "./support/rig.ts";

/** Runs `bazel ARG…` in a shell that has done `before`. */
function inShell(one: Rig, before: string, args: string[], env: Record<string, string> = {}) {
  const { workspace } = one;
  const options = { cwd: workspace.path, env: { ...workspace.env, LC_ALL: undefined, LANG: undefined, ...env } };
  return run(["bash", "-c", `${before}; exec "$@"`, "bash", ...workspace.argv(args)], options);
}

testEach("a server has the limits, umask and locale of its client's shell", async (bazel) => {
  const kinds = [
    { stock: true },
    { args: ["--workspace=shared"] },
    // Where the server is does not depend on the client's generation.
    ...bazel === BAZEL && !IS_FURTHER ? [{ args: ["--workspace=synced"] }] : [],
  ];
  const seen: string[][] = [];
  for (const kind of kinds) {
    await using one = await rig({ bazel, ...kind });
    const said: string[] = [];
    for (
      const [before, env] of [
        ["ulimit -S -c 0; ulimit -s 4096; ulimit -n 700; umask 0027", { LC_ALL: "C.UTF-8" }],
        ["ulimit -c 0; ulimit -S -s 5000; ulimit -S -n 900; umask 0022", { LANG: "C" }],
      ] as const
    ) {
      const info = await inShell(one, before, ["info", "character-encoding"], env);
      assert.equal(info.code, Exit.OK, info.stderr);
      const { pid } = await one.server();
      const [limits, status] = await Promise.all(
        ["limits", "status"].map((f) => Deno.readTextFile(`/proc/${pid}/${f}`)),
      );
      const lines = [
        ...limits.split("\n").filter((line) => /core|stack|open files/.test(line)),
        status.match(/Umask.*/)![0],
      ];
      said.push([info.stdout.trim(), ...lines.map((line) => line.replaceAll(/\s+/g, " ").trim())].join("\n"));
      await one.run(["shutdown"]);
      await ended(pid);
    }
    seen.push(said);
  }
  assert.match(seen[0][0], /Max stack size 4194304 4194304 bytes/);
  assert.match(seen[0][0], /Max open files 700 700 files/);
  for (const through of seen.slice(1)) assert.deepEqual(through, seen[0]);
}, BAZELS);

test("a shell with too little address space for RBS is told so, and RBS_FALLBACK=local builds here", async () => {
  await using one = await rig();
  const limit = "ulimit -v 12000000";
  const refused = await inShell(one, limit, ["build", "//:quick"]);
  assert.notEqual(refused.code, Exit.OK);
  assert.match(refused.stderr, /^rbs: `ulimit -v 12000000` is too little for RBS, .* set RBS_FALLBACK=local/m);
  const startup = ["--host_jvm_args=-Xmx256m"];
  const local = await inShell(one, limit, [...startup, "build", "//:quick"], { RBS_FALLBACK: "local" });
  assert.equal(local.code, Exit.OK, local.stderr);
  assert.equal((await one.run([...startup, "shutdown"])).code, Exit.OK);
  // What RBS has left in an output base, and what was there before.
  await one.buildsQuickly();
  await one.run(["shutdown"]);
  const again = await inShell(one, limit, [...startup, "build", "//:quick"], { RBS_FALLBACK: "local" });
  assert.equal(again.code, Exit.OK, again.stderr);
  assert(!(await Deno.lstat(join(one.outputBase, "execroot"))).isSymlink);
  await one.run([...startup, "shutdown"]);
  await one.buildsQuickly();
});
