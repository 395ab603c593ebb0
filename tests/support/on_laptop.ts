/**
 * `on_laptop.ts COMMAND [ARG…]`: runs a command on the laptop of two machines of its own, with a link of 20 ms round trip
 * and 1 % loss. Ends with its exit code. Clusters that the command starts (see cluster.ts) are on the cloud.
 */
import { findBazels } from "./bazels.ts";
import { surroundingVariables, twoMachines } from "./two_machines.ts";

await findBazels(); // Perhaps from a network, which the laptop does not have.
const machines = await twoMachines();
console.log(`The packets of seed ${machines.link.seed} are lost (RBS_TEST_SEED).`);
const [program, ...args] = [...machines.laptop.enter, "env", `--chdir=${Deno.cwd()}`, ...Deno.args];
const child = new Deno.Command(program, { args, env: surroundingVariables(machines), stdin: "null" }).spawn();
const { code } = await child.status;
const { there, back } = await machines.link.count();
const told = ({ bytes, packets, lost }: typeof there) =>
  `${(bytes / 1e6).toFixed(1)} MB in ${packets} packets (${lost} lost)`;
console.log(`Over the link went ${told(there)}, and ${told(back)} came back.`);
await machines[Symbol.asyncDispose]();
Deno.exit(code);
