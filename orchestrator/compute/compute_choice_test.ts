import assert from "node:assert/strict";
import { InProcessCompute } from "../testing/in_process_compute.ts";
import { ComputeChoice } from "./compute_choice.ts";

const nowhere = new InProcessCompute("nowhere");
const [east, west, west2] = [["east", "e"], ["west", "w"], ["west2", "w"]].map(([name, region]) =>
  new InProcessCompute(name, region)
);

Deno.test("the first service of the wanted region is chosen, and without a wish the default", () => {
  const choice = new ComputeChoice([east, west, west2]);
  assert.deepEqual(choice.forRegion(""), { compute: east });
  assert.deepEqual(choice.forRegion("e"), { compute: east });
  assert.deepEqual(choice.forRegion("w"), { compute: west });
});

Deno.test("a region without a service gets the default, and who waits is told unless nobody knows where that is", () => {
  const { compute, elsewhere } = new ComputeChoice([east, west]).forRegion("moon");
  assert.equal(compute, east);
  assert.equal(elsewhere, "no agents run in moon, so this one runs in e");
  assert.deepEqual(new ComputeChoice([nowhere, west]).forRegion("moon"), { compute: nowhere });
});

Deno.test("an agent is looked for at the service that runs it, if there is one of that name", () => {
  const choice = new ComputeChoice([east, west]);
  assert.equal(choice.named("west"), west);
  assert.equal(choice.named("gone"), east);
  assert.throws(() => new ComputeChoice([east, new InProcessCompute("east")]), TypeError);
});
