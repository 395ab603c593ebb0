import assert from "node:assert/strict";
import { pause, unref } from "./timers.ts";

Deno.test("a pause ends when its time is over, or its signal aborted, and leaves no listener", async () => {
  await pause(1);
  const stop = new AbortController();
  let listeners = 0;
  const { addEventListener, removeEventListener } = stop.signal;
  stop.signal.addEventListener = (...args: Parameters<typeof addEventListener>) => {
    listeners++;
    addEventListener.apply(stop.signal, args);
  };
  stop.signal.removeEventListener = (...args: Parameters<typeof removeEventListener>) => {
    listeners--;
    removeEventListener.apply(stop.signal, args);
  };
  const long = pause(3_600_000, stop.signal);
  await pause(1, stop.signal);
  assert.equal(listeners, 1);
  stop.abort();
  await long;
  assert.equal(listeners, 0);
  await pause(3_600_000, stop.signal);
});

Deno.test("a program ends although a timer that it does not wait for is left", async () => {
  const module = JSON.stringify(import.meta.resolve("./timers.ts"));
  const script =
    `const { unref } = await import(${module}); unref(setTimeout(() => {}, 3_600_000)); console.log("over");`;
  const { code, stdout } = await new Deno.Command(Deno.execPath(), { args: ["eval", script] }).output();
  assert.deepEqual([code, new TextDecoder().decode(stdout)], [0, "over\n"]);
  clearTimeout(unref(setTimeout(() => {}, 3_600_000)));
});
