import assert from "node:assert/strict";
import { lockStorage } from "./storage_lock.ts";

Deno.test("a session's storage is one agent's, and the next one waits for it", async () => {
  const directory = await Deno.makeTempDir();
  try {
    const first = await lockStorage(directory, { timeoutMs: 1_000, onWait: () => assert.fail("nobody has it") });
    const waiting = Promise.withResolvers<void>();
    const second = lockStorage(directory, { timeoutMs: 10_000, onWait: waiting.resolve });
    await waiting.promise;
    first[Symbol.dispose]();
    (await second)[Symbol.dispose]();
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});
