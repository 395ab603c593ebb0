import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { Code, RpcError } from "../../proto/transport/rpc/client.ts";
import { TestAgent, TestWorkspace } from "../test_agent.ts";
import { eventually } from "../../tests/support/eventually.ts";

const refused = (code: number) => (e: unknown) => e instanceof RpcError && e.code === code;

/** One agent without a Bazel server serves all of these. */
Deno.test("ExecuteCommand", async (t) => {
  await using workspace = await TestWorkspace.make("a 'b\"\n$x`ü€");
  await using agent = await TestAgent.start(workspace);
  using supervisor = agent.supervise();
  await supervisor.ready();

  await t.step("both outputs and the exit code come back, from a folder of any name", async () => {
    const result = await agent.run(["/bin/bash", "-c", "pwd; echo err >&2; exit 7"]);
    assert.deepEqual(result, { code: 7, stdout: workspace.workspace + "\n", stderr: "err\n" });
  });

  await t.step("the environment is exactly the caller's", async () => {
    const env = {
      A: "1 '\n\"$x",
      "BASH_FUNC_f%%": "() { :; }",
      IFS: "x",
      UID: "7",
      PWD: "/elsewhere",
      "odd-name": "ü",
    };
    const { stdout } = await agent.run(["/usr/bin/env", "-0"], { env });
    const seen = Object.fromEntries(
      stdout.split("\0").filter((l) => l).map((l) => [l.slice(0, l.indexOf("=")), l.slice(l.indexOf("=") + 1)]),
    );
    delete seen._;
    assert.deepEqual(seen, { ...env, RBS_IN_SESSION: "1", HOME: workspace.home, PATH: Deno.env.get("PATH") });
  });

  await t.step("standard input arrives whole, and its end with it", async () => {
    using command = agent.execute({ args: ["/usr/bin/sha256sum"] });
    const block = Buffer.alloc(1 << 16, "x");
    for (let i = 0; i < 160; i++) await command.call.send({ message: { case: "stdin", value: block } });
    command.end();
    const { stdout } = await command.result;
    const expected = await agent.sh("head -c 10485760 /dev/zero | tr '\\0' x | sha256sum");
    assert.equal(stdout.trim(), expected);
  });

  await t.step("50 MB of output arrive whole", async () => {
    using command = agent.execute({ args: ["/usr/bin/head", "-c", "50000000", "/dev/zero"] });
    assert.equal((await command.result).code, 0);
    assert.equal(command.stdoutBytes, 50_000_000);
  });

  await t.step("a caller that does not read stops the command instead of filling the agent's memory", async () => {
    const client = agent.client("access");
    try {
      const call = client.executeCommand({ metadata: { "rbs-epoch": "1" } });
      const args = [
        "/bin/bash",
        "-c",
        'while :; do printf %65536s || exit; echo x >>"$0"; done',
        `${workspace.root}/count`,
      ];
      call.send({ message: { case: "init", value: { args, workingDirectory: "/" } } });
      await call[Symbol.asyncIterator]().next();
      let before = -1;
      // No event tells that a writer is held back: it has written nothing more at a second look.
      await eventually(async () => {
        await new Promise((resolve) => setTimeout(resolve, 150));
        const stalled = before === size();
        before = size();
        return stalled;
      }, "it stalls");
      assert(before < 500, `${before * 64} kB were buffered`);
      call.cancel();
    } finally {
      client.close();
    }
    function size(): number {
      try {
        return Deno.statSync(`${workspace.root}/count`).size / 2;
      } catch {
        return 0;
      }
    }
  });

  await t.step("a signal reaches the command, and its death by one is 128 + N", async () => {
    using command = agent.execute({
      args: ["/bin/bash", "-c", "trap 'echo got; exit 5' TERM; echo up; while :; do sleep 0.05; done"],
    });
    await command.says("up");
    await command.signal("TERM");
    assert.equal((await command.result).code, 5);
    using sleep = agent.execute({ args: ["/bin/bash", "-c", "echo up; exec sleep 1000"] });
    await sleep.says("up");
    await sleep.signal("INT");
    assert.equal((await sleep.result).code, 130);
  });

  await t.step("a command without a caller is interrupted, and counts until it has ended", async () => {
    const from = supervisor.messages.length;
    const command = agent.execute({
      args: [
        "/bin/bash",
        "-c",
        `trap 'echo interrupted >"$0"; exit' INT; echo up; while :; do sleep 0.05; done`,
        `${workspace.root}/mark`,
      ],
    });
    await command.says("up");
    await supervisor.activity(1, from);
    const since = supervisor.messages.length;
    command.call.cancel();
    await supervisor.activity(0, since);
    assert.equal(await Deno.readTextFile(`${workspace.root}/mark`), "interrupted\n");
  });

  await t.step("a terminal is one: size, Ctrl-C, resize, exit code", async () => {
    using command = agent.execute({
      args: [
        "/bin/bash",
        "-c",
        "trap 'stty size; echo resized' WINCH; test -t 0 && test -t 2 && stty size; while :; do sleep 0.05; done",
      ],
      env: { TERM: "xterm" },
      terminal: { columns: 91, rows: 17 },
    });
    await command.says("17 91");
    await command.call.send({ message: { case: "windowSize", value: { columns: 120, rows: 40 } } });
    await command.says("resized");
    assert.match(command.stdout, /40 120/);
    await command.send("\x03");
    assert.equal((await command.result).code, 130);
    using signalled = agent.execute({
      args: ["/bin/bash", "-c", "trap 'exit 9' INT; echo up; while :; do sleep 0.05; done"],
      terminal: { columns: 80, rows: 24 },
    });
    await signalled.says("up");
    await signalled.signal("INT");
    assert.equal((await signalled.result).code, 9);
    using typed = agent.execute({ args: ["/bin/cat"], terminal: { columns: 80, rows: 24 } });
    await typed.send("hello\n");
    await typed.says("hello\r\nhello\r\n");
    await typed.send("\x04");
    assert.equal((await typed.result).code, 0);
  });

  await t.step("a process that is left behind does not hold the command", async () => {
    const result = await agent.run(["/bin/bash", "-c", "sleep 1000 & echo done"]);
    assert.deepEqual(result, { code: 0, stdout: "done\n", stderr: "" });
  });

  await t.step("what cannot be run is said in one sentence", async () => {
    for (const args of [[], ["ls"], ["./x"], ["/bin/echo", "a\0b"]]) {
      await assert.rejects(agent.run(args), refused(Code.INVALID_ARGUMENT), args.join());
    }
    await assert.rejects(agent.run(["/bin/true"], { workingDirectory: "x" }), refused(Code.INVALID_ARGUMENT));
    const missing = await agent.run(["/no/such/program"]);
    assert.deepEqual([missing.code, missing.stderr], [
      127,
      "The program /no/such/program is not there on the agent: install it.\n",
    ]);
    const nowhere = await agent.run(["/bin/true"], { workingDirectory: "/no/where" });
    assert.deepEqual([nowhere.code, nowhere.stderr], [
      1,
      "The working directory /no/where cannot be entered on the agent.\n",
    ]);
  });

  await t.step("only the owner may, and only in the present epoch", async () => {
    for (const token of ["control", "", "x"]) {
      const command = agent.execute({ args: ["/bin/true"] }, token);
      await assert.rejects(command.result, refused(Code.UNAUTHENTICATED));
    }
    await supervisor.call.send({ message: { case: "setEpoch", value: { epoch: 3, term: 1 } } });
    await eventually(async () => {
      try {
        await agent.run(["/bin/true"]);
        return false;
      } catch (e) {
        return refused(Code.FAILED_PRECONDITION)(e);
      }
    }, "the epoch is there");
    agent.epoch = 3;
    assert.equal((await agent.run(["/bin/true"])).code, 0);
  });

  await t.step("nothing is left in the control directory", async () => {
    await eventually(async () => {
      const { stdout } = await agent.run(["/bin/ls", `${workspace.storage}/ctl`]);
      // The one that lists is there itself.
      return stdout.split("\n").filter((f) => /^\d/.test(f)).map((f) => f.split(".")[0]).every((id, _, all) =>
        id === all[0]
      );
    }, "it is empty");
  });
});
