/** A program that an orchestrator can start as its agent; see {@link behaviours} for what it can be told. */
import { fromJsonString, toJsonString } from "@bufbuild/protobuf";
import { AgentListeningSchema, AgentSpecSchema } from "../../proto/contract/gen/rbs/v1/agent_pb.ts";
import { enrol } from "../../proto/enrolment/enrolment.ts";
import { enrolByPipe } from "../../proto/enrolment/pipe_enrolment.ts";
import { LineReader } from "../../proto/base/line_reader.ts";
import type { AgentSpec } from "../compute/compute_service.ts";
import { behaviours, FakeAgentServer } from "./fake_agent_server.ts";

const input = new LineReader(Deno.stdin.readable);
const whole = fromJsonString(AgentSpecSchema, (await input.next())!);
const spec = whole as unknown as AgentSpec;
const behaviour = behaviours(spec.startupOptions);

if (behaviour.has("exit")) {
  console.error("fake agent: \x1b[31mno JDK here\x1b[0m\n");
  Deno.exit(3);
}
if (behaviour.has("garbage")) {
  console.log("Welcome to \x07 the shell!\nport: 17");
  await new Promise((resolve) => setTimeout(resolve, 3_600_000));
}
if (behaviour.has("hang")) await new Promise((resolve) => setTimeout(resolve, 3_600_000));
if (behaviour.has("deaf")) Deno.addSignalListener("SIGTERM", () => {});
if (behaviour.has("environment")) console.error(JSON.stringify(Deno.env.toObject()));

const credentials = whole.enrolsByPipe
  ? await enrolByPipe(whole, { input, print: console.log })
  : spec.orchestratorAddress
  ? await enrol(
    { address: spec.orchestratorAddress },
    { authorities: spec.authorities!, trustDomain: spec.trustDomain! },
    spec.bootstrapToken!,
  )
  : undefined;
const agent = new FakeAgentServer(spec, Deno.env.get("RBS_AGENT_HOST"), credentials);
const port = await agent.listen();
console.log(toJsonString(AgentListeningSchema, { $typeName: "rbs.v1.AgentListening", port, commandPort: port }));
await agent.ended;
console.error("fake agent: ended as asked");
Deno.exit(0);
