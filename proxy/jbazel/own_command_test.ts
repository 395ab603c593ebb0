import assert from "node:assert/strict";
import { TestPlace } from "./fake_services.ts";
import { installCommand } from "./orchestrator_program.ts";
import { ownCommand } from "./own_command.ts";

Deno.test("jbazel is called by its name where the PATH finds it, and by its path elsewhere", () => {
  using place = new TestPlace();
  const file = `${place.root}/dist/jbazel`;
  Deno.mkdirSync(`${place.root}/dist`);
  Deno.mkdirSync(`${place.root}/bin`);
  Deno.writeTextFileSync(file, "");
  Deno.symlinkSync(file, `${place.root}/bin/jbazel`);
  assert.equal(ownCommand(file, `/nowhere:${place.root}/bin`), "jbazel");
  assert.equal(ownCommand(file, "/nowhere"), `'${file}'`);
  assert.equal(ownCommand("/opt/rbs/jbazel"), "/opt/rbs/jbazel");
  assert.equal(ownCommand(import.meta.url.replace("own_command_test", "main"), ""), "jbazel");
});

Deno.test("the orchestrator beside the javabase is named by its path", () => {
  using place = new TestPlace();
  const address = "localhost:50051";
  assert.equal(installCommand(`${place.root}/javabase`, address), "orchestrator install");
  Deno.writeTextFileSync(`${place.root}/orchestrator`, "");
  assert.equal(installCommand(`${place.root}/javabase`, address), `'${place.root}/orchestrator' install`);
  assert.equal(installCommand("/none/javabase", "localhost:7,localhost:8"), "orchestrator install --port=7");
});
