import assert from "node:assert/strict";
import { lockStorage } from "./storage_lock.ts";
import { tempDir } from "../../tests/support/temp_dir.ts";

Deno.test("a session's storage is one agent's, and the next one waits for it", async () => {
  await using directory = await tempDir();
  const first = await lockStorage(directory.path, { timeoutMs: 1_000, onWait: () => assert.fail("nobody has it") });
  const waiting = Promise.withResolvers<void>();
  const second = lockStorage(directory.path, { timeoutMs: 10_000, onWait: waiting.resolve });
  await waiting.promise;
  first[Symbol.dispose]();
  (await second)[Symbol.dispose]();
});
