/** An orchestrator that nobody keeps a terminal open for. Needs dist/. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { PROGRAMS } from "../support/repository.ts";
import { run } from "../support/run.ts";
import { tempDir } from "../support/temp_dir.ts";
import { ended, isAlive } from "./support/processes.ts";
import { Exit, rig, test } from "./support/rig.ts";

test("an installed orchestrator outlives its terminal, serves builds, and ends when it is told to", async () => {
  await using place = await tempDir("rbs-background-");
  const state = place.join("state");
  // This machine's own systemd is not touched: it looks as if there were none.
  await Deno.mkdir(place.join("bin"));
  await Deno.writeTextFile(place.join("bin/systemctl"), "#!/bin/sh\nexit 1\n", { mode: 0o755 });
  const env = { RBS_STATE_DIR: state, PATH: `${place.join("bin")}:${Deno.env.get("PATH")}` };
  const orchestrator = (...args: string[]) => run([PROGRAMS.orchestrator, ...args], { env });

  const none = await orchestrator("status");
  assert.deepEqual([none.code, /^No orchestrator runs in the background/.test(none.stdout)], [1, true], none.stdout);
  // The terminal that `script` makes is gone when it ends.
  const installed = await run(["script", "-qec", `${PROGRAMS.orchestrator} install --port=0`, "/dev/null"], { env });
  try {
    assert.equal(installed.code, 0, installed.stdout + installed.stderr);
    const [, address, first] = /ready on (\S+) \(a process of its own, process (\d+)\)/.exec(installed.stdout) ?? [];
    assert(address, installed.stdout);
    assert.match(await Deno.readTextFile(join(state, "orchestrator.log")), /^rbs orchestrator ready on /m);
    const runs = await orchestrator("status");
    assert.equal(runs.code, 0, runs.stderr);
    assert(runs.stdout.includes(`process ${first}), ready on ${address}`), runs.stdout);

    await using one = await rig({ rbs: { RBS_STATE_DIR: state, RBS_ORCHESTRATOR_ADDR: address } });
    await one.buildsQuickly();

    // What is installed already is replaced, on the same port; a port that another has is not taken.
    const port = address.split(":").at(-1)!;
    // What cannot start ends nothing.
    const nowhere = await orchestrator("install", "--listen=192.0.2.1");
    assert.equal(nowhere.code, 1, nowhere.stdout);
    assert.match(nowhere.stderr, /This machine has no address 192\.0\.2\.1/);
    assert(await isAlive(Number(first)));
    const again = await orchestrator("install", `--port=${port}`);
    assert.equal(again.code, 0, again.stderr);
    assert(!again.stdout.includes(`process ${first})`) && again.stdout.includes(`ready on ${address}`), again.stdout);
    assert(!await isAlive(Number(first)));
    await one.buildsQuickly();
    assert.match(again.stdout, /^The orchestrator that ran, process \d+, is ended, and its sessions with it\.$/m);
    assert.match((await orchestrator("status")).stdout, new RegExp(`install --port=${port}\``));
    const elsewhere = { ...env, RBS_STATE_DIR: place.join("other") };
    const taken = await run([PROGRAMS.orchestrator, "install", `--port=${port}`], { env: elsewhere });
    assert.equal(taken.code, 1, taken.stdout);
    assert.match(taken.stderr, /^orchestrator: Something listens on localhost:\d+ already: end it first/);

    const [, second] = /, process (\d+)\)/.exec(again.stdout)!;
    const stopped = await orchestrator("stop");
    assert.deepEqual([stopped.code, stopped.stdout], [0, `The orchestrator, process ${second}, has ended.\n`]);
    await ended(Number(second));
    assert.equal((await orchestrator("status")).code, 1);
    assert.equal((await one.run(["build", "//:quick"])).code, Exit.LOCAL_ENVIRONMENT);
    await one.run(["shutdown"]);
  } finally {
    await orchestrator("stop");
  }
});

test("an orchestrator that cannot start in the background says why, at once", async () => {
  await using place = await tempDir("rbs-background-");
  await Deno.mkdir(place.join("bin"));
  await Deno.writeTextFile(place.join("bin/systemctl"), "#!/bin/sh\nexit 1\n", { mode: 0o755 });
  const env = { RBS_STATE_DIR: place.join("state"), PATH: `${place.join("bin")}:${Deno.env.get("PATH")}` };
  const install = (...args: string[]) => run([PROGRAMS.orchestrator, "install", "--port=0", ...args], { env });
  const noAgent = await install("--agent=/nowhere/agent");
  assert.equal(noAgent.code, 1, noAgent.stdout);
  assert.match(noAgent.stderr, /^orchestrator: There is no agent program at \/nowhere\/agent/);
  const wrong = await install("--no-such-option");
  assert.equal(wrong.code, 2, wrong.stdout);
});
