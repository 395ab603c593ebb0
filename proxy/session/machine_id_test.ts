import assert from "node:assert/strict";
import { join } from "node:path";
import { machineId } from "./machine_id.ts";
import { tempDirSync } from "../../tests/support/temp_dir.ts";

const HERE = { hostName: "laptop", systemId: "1234" };

Deno.test("a machine's id is random, kept, and its owner's to read", () => {
  using state = tempDirSync();
  using other = tempDirSync();
  const id = machineId({ stateDirectory: state.path, explicit: "", ...HERE });
  assert.match(id, /^[0-9a-f]{32}$/);
  assert.equal(machineId({ stateDirectory: state.path, explicit: "", ...HERE }), id);
  assert.notEqual(machineId({ stateDirectory: other.path, explicit: "", ...HERE }), id);
  const folder = join(state.path, "machines");
  const [{ name }, ...more] = Deno.readDirSync(folder);
  assert.equal(more.length, 0);
  assert.equal(Deno.statSync(join(folder, name)).mode! & 0o777, 0o600);
});

Deno.test("it is another one where host name or system id differ, and the former one where they are back", () => {
  using state = tempDirSync();
  const ids = [HERE, { ...HERE, hostName: "copy" }, { ...HERE, systemId: "5678" }, HERE].map((where) =>
    machineId({ stateDirectory: state.path, explicit: "", ...where })
  );
  assert.equal(new Set(ids).size, 3);
  assert.equal(ids[3], ids[0]);
});

Deno.test("RBS_MACHINE_ID overrules it", () => {
  using state = tempDirSync();
  assert.equal(machineId({ stateDirectory: state.path, explicit: "mine", ...HERE }), "mine");
  assert.deepEqual([...Deno.readDirSync(state.path)], []);
});

Deno.test("a damaged file is replaced, and a state directory that cannot be written does no harm", () => {
  using state = tempDirSync();
  const id = () => machineId({ stateDirectory: state.path, explicit: "", ...HERE });
  const first = id();
  const folder = join(state.path, "machines");
  const [{ name }] = Deno.readDirSync(folder);
  Deno.writeTextFileSync(join(folder, name), "cut sho");
  const second = id();
  assert.match(second, /^[0-9a-f]{32}$/);
  assert.notEqual(second, first);
  assert.equal(id(), second);
  assert.equal([...Deno.readDirSync(folder)].length, 1);

  Deno.removeSync(folder, { recursive: true });
  Deno.writeTextFileSync(folder, "");
  assert.match(id(), /^[0-9a-f]{64}$/);
  assert.equal(id(), id());
});
