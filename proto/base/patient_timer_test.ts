import assert from "node:assert/strict";
import { patientTimer } from "./patient_timer.ts";
import { eventually } from "../../tests/support/eventually.ts";

Deno.test("a program that was busy itself hears what lies there already before the time is over", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using near = await Deno.connect({ hostname: "127.0.0.1", port: listener.addr.port });
  using far = await listener.accept();
  const events: string[] = [];
  patientTimer(() => events.push("over"), 50);
  await near.write(new Uint8Array(1));
  const reading = far.read(new Uint8Array(1)).then(() => events.push("heard"));
  const until = performance.now() + 400;
  while (performance.now() < until);
  await reading;
  await eventually(() => events.length === 2);
  assert.deepEqual(events, ["heard", "over"]);
});

Deno.test("a timer that was stopped does not go off", async () => {
  const events: string[] = [];
  const stop = patientTimer(() => events.push("stopped"), 10);
  patientTimer(() => events.push("over"), 20);
  stop();
  await eventually(() => events.length > 0);
  assert.deepEqual(events, ["over"]);
});
