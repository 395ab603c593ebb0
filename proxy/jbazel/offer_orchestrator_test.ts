import assert from "node:assert/strict";
import { offerOrchestrator } from "./offer_orchestrator.ts";
import type { ProgramResult } from "./programs.ts";

/** Where nothing listens. */
const NOWHERE = "localhost:1";

async function offer(answer?: string, result: Partial<ProgramResult> = {}, orchestrator = NOWHERE) {
  const ran: string[][] = [], said: string[] = [], asked: string[] = [];
  await offerOrchestrator({
    orchestrator,
    javabase: "/opt/rbs/dist/javabase",
    run: (program, args) => {
      ran.push([program, ...args]);
      return Promise.resolve({ outcome: "ran", code: 0, stdout: "It is ready.", stderr: "", ...result });
    },
    say: (line) => said.push(line),
    ask: answer === undefined ? undefined : (question) => {
      asked.push(question);
      return answer;
    },
  });
  return { ran, said, asked };
}

Deno.test("setup offers to start an orchestrator where none listens, and starts it for a yes", async () => {
  const { ran, said, asked } = await offer("y");
  assert.match(asked[0], /^No orchestrator listens on localhost:1\. Start one in the background now/);
  assert.deepEqual([ran, said], [[["/opt/rbs/dist/orchestrator", "install", "--port=1"]], ["It is ready."]]);
});

Deno.test("setup only says how to start one for a no, and where there is nobody to be asked", async () => {
  for (const answer of ["n", "", undefined]) {
    const { ran, said } = await offer(answer);
    assert.deepEqual(ran, []);
    assert.match(said[0], /yet: `orchestrator install --port=1` starts one in the background\.$/);
  }
});

Deno.test("setup offers nothing where somebody listens, or where one elsewhere may", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  for (const address of [`127.0.0.1:${(listener.addr as Deno.NetAddr).port}`, "192.0.2.1:50051"]) {
    assert.deepEqual(await offer("y", {}, address), { ran: [], said: [], asked: [] });
  }
  listener.close();
});

Deno.test("setup says why the orchestrator was not started", async () => {
  const failed = { code: 1, stdout: "", stderr: "orchestrator: Something listens on localhost:1 already." };
  await assert.rejects(offer("yes", failed), /was not started \(orchestrator: Something listens .*install/);
  await assert.rejects(offer("yes", { outcome: "missing", code: -1, stdout: "" }), /it is missing/);
});
