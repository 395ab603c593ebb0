import assert from "node:assert/strict";
import { Status, StatusError } from "../../proto/transport/grpc/calls.ts";
import { ConnectError } from "../../proto/transport/grpc/channel.ts";
import { AgentPatience } from "./agent_patience.ts";

const refused = new ConnectError("refused", "connection refused");
const untrusted = new ConnectError("untrusted", "it is somebody else");
const silent = new ConnectError("unreachable", "no answer within 5 s");
/** What an agent's own words and a connection that was cut have in common. */
const cut = new StatusError(Status.UNAVAILABLE, "the connection was closed");

Deno.test("where nobody was reached yet one refusal is enough, where an agent was it takes two in a row", () => {
  for (const no of [refused, untrusted]) assert.equal(new AgentPatience({}).failed(no), "gone");
  const known = new AgentPatience({ connected: true });
  assert.deepEqual([refused, silent, refused, refused].map((e) => known.failed(e)), [
    "again",
    "again",
    "again",
    "gone",
  ]);
  const reached = new AgentPatience({});
  assert.deepEqual([silent, cut, refused, untrusted].map((e) => reached.failed(e)), [
    "again",
    "again",
    "again",
    "gone",
  ]);
  const back = new AgentPatience({ connected: true });
  assert.equal(back.failed(refused), "again");
  back.connected();
  assert.equal(back.failed(refused), "again", "there was a connection in between");
});

Deno.test("an agent that is silent is tried for as long as its session is its own, and patience lasts", () => {
  let current = true;
  const patience = new AgentPatience({ isCurrent: () => current });
  assert.equal(patience.lostMs, undefined);
  assert.equal(patience.failed(silent), "again");
  assert.ok(patience.lostMs! >= 0);
  patience.answered({ resetWaits: true });
  assert.equal(patience.lostMs, undefined);
  current = false;
  assert.equal(patience.failed(silent), "gone");
  assert.equal(new AgentPatience({ patienceMs: 0 }).failed(silent), "late");
});

Deno.test("a port without a listener is refused, by the error's code and not by its words", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  listener.close();
  const failure = await Deno.connect({ hostname: "127.0.0.1", port }).then(() => undefined, (e) => e);
  assert.equal(ConnectError.from(failure).reason, "refused");
  assert.equal(ConnectError.from(new Error("an orchestrator refused it")).reason, "unreachable");
});
