/**
 * A program that an orchestrator can start as its agent; see {@link behaviours} for what its session can tell it. By its
 * arguments it ends at once (`exit`), prints nonsense (`garbage`), never says where it listens (`hang`), or prints its
 * environment (`environment`).
 */
import { fromJsonString, toJsonString } from "@bufbuild/protobuf";
import { AgentListeningSchema, BlankAgentSchema } from "../../proto/contract/gen/rbs/v1/agent_pb.ts";
import { enrol } from "../../proto/enrolment/enrolment.ts";
import { enrolByPipe } from "../../proto/enrolment/pipe_enrolment.ts";
import { LineReader } from "../../proto/base/line_reader.ts";
import { FakeAgentServer } from "./fake_agent_server.ts";

const input = new LineReader(Deno.stdin.readable);
const blank = fromJsonString(BlankAgentSchema, (await input.next())!);
const behaviour = new Set(Deno.args);
const exit = () => {
  console.error("fake agent: \x1b[31mno JDK here\x1b[0m\n");
  Deno.exit(3);
};

if (behaviour.has("exit")) exit();
if (behaviour.has("garbage")) {
  console.log("Welcome to \x07 the shell!\nport: 17");
  await new Promise((resolve) => setTimeout(resolve, 3_600_000));
}
if (behaviour.has("hang")) await new Promise((resolve) => setTimeout(resolve, 3_600_000));
if (behaviour.has("environment")) console.error(JSON.stringify(Deno.env.toObject()));

const alive = await Deno.open(blank.aliveFile, { write: true });
if (!await alive.tryLock(true)) throw new Error("somebody else has the file");
const credentials = blank.enrolsByPipe
  ? await enrolByPipe(blank, { input, print: console.log })
  : blank.orchestratorAddress
  ? await enrol({ address: blank.orchestratorAddress }, blank, blank.bootstrapToken)
  : undefined;
const agent = new FakeAgentServer(blank, Deno.env.get("RBS_AGENT_HOST"), credentials);
agent.exit = exit;
Deno.addSignalListener("SIGTERM", () => agent.isDeaf || agent.close());
const port = await agent.listen();
console.log(toJsonString(AgentListeningSchema, { $typeName: "rbs.v1.AgentListening", port, commandPort: port }));
await agent.ended;
console.error("fake agent: ended as asked");
Deno.exit(0);
