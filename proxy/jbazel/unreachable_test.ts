import assert from "node:assert/strict";
import { RbsError } from "../../proto/base/errors.ts";
import { giveUserKeys } from "../../proto/testing/keys.ts";
import { TestPlace } from "./fake_services.ts";
import { explainUnreachable } from "./unreachable.ts";

const failure = new RbsError("it failed", { exitCode: 36 });

async function explain(place: TestPlace, orchestrator: string, e: unknown = failure): Promise<string> {
  const settings = { orchestrator, stateDirectory: place.stateDirectory, fallback: "error" as const };
  const explained = await explainUnreachable(e, settings, "/opt/orchestrator install") as RbsError;
  assert.equal(explained.exitCode, (e as RbsError).exitCode);
  return explained.message;
}

Deno.test("each state of a new machine has its own sentence, with what to do", async () => {
  using place = new TestPlace();
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const address = `127.0.0.1:${(listener.addr as Deno.NetAddr).port}`;
  assert.match(
    await explain(place, address),
    /^Something listens at .* no key for it in .*state\/keys: set RBS_STATE_DIR/,
  );
  assert.match(
    await explain(place, "rbs.example:1"),
    /^The orchestrator at rbs\.example:1 does not know you yet .*jbazel login/,
  );
  listener.close();
  assert.match(
    await explain(place, address),
    /orchestrator, does not run on this machine yet .*`\/opt\/orchestrator install`.*jbazel login/,
  );
  await giveUserKeys(place.stateDirectory, "ada");
  assert.match(
    await explain(place, address),
    /orchestrator does not run .*`\/opt\/orchestrator install`; .*RBS_FALLBACK/,
  );
});

Deno.test("other errors stay as they are", async () => {
  using place = new TestPlace();
  await giveUserKeys(place.stateDirectory, "ada");
  assert.equal(await explain(place, "rbs.example:1"), "it failed");
  assert.equal(await explain(place, "localhost:1", new RbsError("another", { exitCode: 2 })), "another");
});
