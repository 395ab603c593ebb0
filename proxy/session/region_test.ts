import assert from "node:assert/strict";
import { join } from "node:path";
import { wantedRegion } from "./region.ts";
import { tempDir } from "../../tests/support/temp_dir.ts";

const DAY = 86_400_000;

/** Runs with a state directory of its own, and without RBS_REGION. */
async function withState(run: (stateDirectory: string) => Promise<void>): Promise<void> {
  const before = Deno.env.get("RBS_REGION");
  Deno.env.delete("RBS_REGION");
  await using directory = await tempDir();
  try {
    await run(directory.path);
  } finally {
    if (before !== undefined) Deno.env.set("RBS_REGION", before);
    else Deno.env.delete("RBS_REGION");
  }
}

/** A cloud that answers at once, and counts how often it was asked. */
function cloud(region: string | undefined) {
  const it = { asked: 0, lookUp: () => (it.asked++, Promise.resolve(region)) };
  return it;
}

const never = (): Promise<string | undefined> => Promise.reject(new Error("nobody is to be asked"));

Deno.test("RBS_REGION decides, also when it is empty, and nobody is asked", () =>
  withState(async (stateDirectory) => {
    for (const region of ["here", ""]) {
      Deno.env.set("RBS_REGION", region);
      assert.equal(await wantedRegion({ stateDirectory, lookUp: never }), region);
    }
  }));

for (const region of ["europe-west1", undefined]) {
  Deno.test(`the cloud is asked once a day, also when it answers ${region}`, () =>
    withState(async (stateDirectory) => {
      let time = 1_000_000_000_000;
      const now = () => time;
      const it = cloud(region);
      const ask = () => wantedRegion({ stateDirectory, lookUp: it.lookUp, now });
      assert.equal(await ask(), region ?? "");
      time += DAY - 1;
      assert.equal(await ask(), region ?? "");
      assert.equal(it.asked, 1);
      assert.equal(Deno.statSync(join(stateDirectory, "region.json")).mode! & 0o777, 0o600);
      time += 1;
      await ask();
      assert.equal(it.asked, 2);
      // A clock that was set back.
      time -= 2 * DAY;
      await ask();
      assert.equal(it.asked, 3);
      assert.deepEqual(Array.from(Deno.readDirSync(stateDirectory), ({ name }) => name), ["region.json"]);
    }));
}

Deno.test("a cloud that is slow holds nobody up, is asked once, and is heard by the next one", () =>
  withState(async (stateDirectory) => {
    const answer = Promise.withResolvers<string>();
    let asked = 0;
    const ask = () => wantedRegion({ stateDirectory, lookUp: () => (asked++, answer.promise) });
    assert.deepEqual(await Promise.all([ask(), ask()]), ["", ""]);
    answer.resolve("eu-west-1");
    assert.equal(await ask(), "eu-west-1");
    assert.equal(asked, 1);
  }));

Deno.test("who may not ask knows what was found before, and what stands in the file by accident counts for nothing", () =>
  withState(async (stateDirectory) => {
    assert.equal(await wantedRegion({ stateDirectory }), "");
    await wantedRegion({ stateDirectory, lookUp: cloud("eu-west-1").lookUp });
    assert.equal(await wantedRegion({ stateDirectory }), "eu-west-1");
    for (const text of ["", "{}", '{"region":"a b","at":1}', '{"region":7,"at":1}']) {
      await Deno.writeTextFile(join(stateDirectory, "region.json"), text);
      assert.equal(await wantedRegion({ stateDirectory }), "", text);
    }
  }));

Deno.test("a state directory that cannot be written is no obstacle", () =>
  withState(async (stateDirectory) => {
    const it = cloud("eu-west-1");
    const nowhere = join(stateDirectory, "nowhere");
    assert.equal(await wantedRegion({ stateDirectory: nowhere, lookUp: it.lookUp }), "eu-west-1");
  }));
