/** What a session's programs try with the first process of their namespace, and what comes of it. */
import assert from "node:assert/strict";
import { eventually } from "../../tests/support/eventually.ts";
import { SessionInit, type SessionInitOptions } from "./namespace_init.ts";
import { isRoot, namespaceCommand, type NamespaceKind } from "./mount_namespace.ts";
import { tempDir } from "../../tests/support/temp_dir.ts";

interface World extends AsyncDisposable {
  init: SessionInit;
  directory: string;
}

/** A namespace with its first process. */
async function world(kind: NamespaceKind, options: Partial<SessionInitOptions> = {}): Promise<World> {
  const directory = await tempDir(undefined, "/var/tmp");
  const [storage, controlDirectory] = [directory.join("out"), directory.join("ctl")];
  for (const folder of [storage, controlDirectory]) Deno.mkdirSync(folder);
  const command = namespaceCommand(kind, await isRoot(), { storage, controlDirectory });
  const init = await SessionInit.start({ command, controlDirectory, ...options });
  return {
    init,
    directory: directory.path,
    async [Symbol.asyncDispose]() {
      await init.close();
      await directory[Symbol.asyncDispose]();
    },
  };
}

/** A script's beginning: $init is the first process, as the session counts. */
const FIND_INIT = String.raw`init=$(pgrep -o -f '^bash .*/init\.sh ') || exit 9
`;

const KINDS: NamespaceKind[] = await isRoot() ? ["bwrap", "unshare"] : ["bwrap"];

for (const kind of KINDS) {
  Deno.test(`${kind}: a program that floods the pipe of the first process ends its own session, in one sentence`, async () => {
    await using it = await world(kind);
    const waiting = it.init.run("exec sleep 1000");
    await waiting.started;
    const before = Deno.memoryUsage().rss;
    it.init.run(`${FIND_INIT} exec yes "exit 1" >/proc/$init/fd/1`);
    assert.equal(await waiting.exit, 137);
    assert.match(it.init.fault!, /^A program of the session has written into the channel .*\.$/);
    assert.match(it.init.gone.reason.message, /channel/);
    assert(Deno.memoryUsage().rss - before < 50e6);
  });

  Deno.test(`${kind}: half a line in the pipe of the first process, or a forged one, takes no exit away`, async () => {
    await using it = await world(kind);
    const script = `${FIND_INIT} printf 'exit 9' >/proc/$init/fd/1; printf 'x%5000s' '' >/proc/$init/fd/1
printf '\\nhello\\nstarted 77 1\\nexit 77 0\\nrunning 5\\nrubbish' >/proc/$init/fd/1`;
    assert.equal((await it.init.call(script)).code, 0);
    assert.equal((await it.init.call("echo on; exit 3")).code, 3);
    assert.equal(it.init.fault, undefined);
  });

  Deno.test(`${kind}: a program that floods the error output of the first process fills no log`, async () => {
    const logged: string[] = [];
    const { writeSync } = Deno.stderr;
    Deno.stderr.writeSync = (bytes) => {
      logged.push(new TextDecoder().decode(bytes));
      return bytes.length;
    };
    try {
      await using it = await world(kind);
      const waiting = it.init.run("exec sleep 1000");
      await waiting.started;
      it.init.run(`${FIND_INIT} exec yes "$(printf '%2000s' '' | tr ' ' y)" >/proc/$init/fd/2`);
      assert.equal(await waiting.exit, 137);
      assert.match(it.init.fault!, /flood the agent's log/);
    } finally {
      Deno.stderr.writeSync = writeSync;
    }
    assert(logged.length < 110, `${logged.length} lines`);
    assert(logged.join("").length < 70_000);
    assert.match(logged.join(""), /\d+ more lines were left out/);
  });

  Deno.test(`${kind}: an exit that is lost holds no command`, async () => {
    await using it = await world(kind, { askMs: 50 });
    const job = it.init.run("exec sleep 1000");
    const pid = await job.started;
    // Who tells of the exit is killed first.
    await it.init.call(`kill -9 $(ps -o ppid= -p ${pid}); kill -9 ${pid}`);
    assert.equal(await job.exit, 137);
    assert.equal((await it.init.call("exit 4")).code, 4, "the session goes on");
  });

  Deno.test(`${kind}: a command that is not let begin holds nobody`, async () => {
    await using it = await world(kind, { askMs: 50, patienceMs: 500 });
    const watch = it.init.run(`cd ${it.directory}/ctl; while :; do for f in *.out; do
      [[ -p $f ]] && mkfifo "x$f" 2>/dev/null && mv -f "x$f" "$f"; done; done 2>/dev/null`);
    await watch.started;
    for (let i = 0; i < 5; i++) {
      const { exit, carrier } = await it.init.stream("exit 5");
      assert([5, 137].includes(await exit));
      await carrier.stdin.close().catch(() => {});
      await carrier.output();
    }
    watch.signal("KILL");
  });

  Deno.test(`${kind}: the end of a session needs nobody in it`, async () => {
    await using it = await world(kind);
    const job = it.init.run(`trap '' TERM INT HUP; ${FIND_INIT} kill -STOP $init; while :; do sleep 0.1; done`);
    const { held } = it.init.find(await job.started)!;
    const { held: first } = it.init.find(1)!;
    await it.init.close();
    assert(held.hasEnded && first.hasEnded);
    assert.equal(await job.exit, 137);
    held[Symbol.dispose]();
    first[Symbol.dispose]();
  });
}

Deno.test("bwrap: a first process that is stopped, and so tells of no exit, holds no command", async () => {
  await using it = await world("bwrap", { askMs: 50, patienceMs: 1_000 });
  const job = it.init.run(`${FIND_INIT} kill -STOP $init; exit 0`);
  // Its own exit is told by another process; the next job is never begun.
  await job.exit;
  const next = it.init.run("exit 0");
  assert.equal(await next.exit, 137);
  await eventually(() => it.init.gone.aborted, "its end");
  assert.match(it.init.fault!, /does not answer any more/);
});
