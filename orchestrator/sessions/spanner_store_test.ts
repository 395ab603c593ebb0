import assert from "node:assert/strict";
import { RbsError } from "../../proto/errors.ts";
import { EMULATOR, SpannerEmulator } from "../testing/spanner_emulator.ts";
import { SpannerSessionStore } from "./spanner_store.ts";
import { storeContract } from "./store_contract.ts";

let emulator: SpannerEmulator;
Deno.test.beforeAll(async () => {
  if (EMULATOR) emulator = await SpannerEmulator.start();
});
Deno.test.afterAll(() => emulator?.[Symbol.asyncDispose]());

storeContract("Spanner", async () => SpannerSessionStore.open(await emulator.newDatabase()), { ignore: !EMULATOR });
