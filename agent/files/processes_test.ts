import assert from "node:assert/strict";
import { findProcess, HeldProcess, ownsPort, pidNamespaceOf } from "./processes.ts";

Deno.test("a port belongs to the process that listens there, and to no other", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  assert(ownsPort(Deno.pid, "127.0.0.1", port));
  const other = new Deno.Command("sleep", { args: ["1000"] }).spawn();
  try {
    assert(!ownsPort(other.pid, "127.0.0.1", port));
    const accepted = listener.accept();
    using _connection = await Deno.connect({ hostname: "127.0.0.1", port });
    using _accepted = await accepted;
    assert(ownsPort(Deno.pid, "127.0.0.1", port), "with a connection to it");
    assert.equal(findProcess(Deno.pid, undefined, other.pid), other.pid);
    assert.equal(pidNamespaceOf(Deno.pid), undefined);
    using held = new HeldProcess(other.pid);
    assert(!held.hasEnded);
    held.signal("KILL");
    assert(await held.ended(10_000));
    await other.status;
    assert(held.hasEnded);
  } finally {
    try {
      other.kill("SIGKILL");
    } catch { /* it has ended */ }
    await other.status;
  }
  listener.close();
  assert(!ownsPort(Deno.pid, "127.0.0.1", port), "nobody listens there");
});

Deno.test("the same port of the other loopback address is another's, and takes nothing away", async () => {
  // As another server may get it, which asks for any free port; ends with its standard input.
  const script = `const port = Number(Deno.args[0]);
const listener = Deno.listen({ hostname: "127.0.0.1", port });
const both = [listener.accept(), Deno.connect({ hostname: "127.0.0.1", port })];
await Promise.all(both);
console.log("there");
await Deno.stdin.read(new Uint8Array(1));`;
  using ours = Deno.listen({ hostname: "::1", port: 0 });
  const { port } = ours.addr;
  await using other = new Deno.Command(Deno.execPath(), {
    args: ["eval", "--quiet", script, String(port)],
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const reader = other.stdout.getReader();
  assert.equal(new TextDecoder().decode((await reader.read()).value), "there\n");
  reader.releaseLock();
  assert(ownsPort(Deno.pid, "::1", port));
  assert(!ownsPort(Deno.pid, "127.0.0.1", port), "that one is the other's");
  assert(ownsPort(other.pid, "127.0.0.1", port));
  assert(!ownsPort(other.pid, "::1", port));
});

Deno.test("who listens at any address has what nobody has by itself", () => {
  using listener = Deno.listen({ hostname: "0.0.0.0", port: 0 });
  const { port } = listener.addr;
  assert(ownsPort(Deno.pid, "127.0.0.1", port));
  assert(!ownsPort(Deno.pid, "::1", port));
});
