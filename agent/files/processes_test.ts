import assert from "node:assert/strict";
import { findProcess, HeldProcess, ownsPort, pidNamespaceOf } from "./processes.ts";

Deno.test("a port belongs to the process that listens there, and to no other", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  assert(ownsPort(Deno.pid, port));
  const other = new Deno.Command("sleep", { args: ["1000"] }).spawn();
  try {
    assert(!ownsPort(other.pid, port));
    const accepted = listener.accept();
    using _connection = await Deno.connect({ hostname: "127.0.0.1", port });
    using _accepted = await accepted;
    assert(ownsPort(Deno.pid, port), "with a connection to it");
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
  assert(!ownsPort(Deno.pid, port), "nobody listens there");
});
