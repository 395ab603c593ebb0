import assert from "node:assert/strict";
import { join } from "node:path";
import type { Run, Service } from "./service.ts";
import { runProgram } from "./service.ts";
import { Systemd, unitName, unitText } from "./systemd.ts";
import { tempDirSync } from "../../tests/support/temp_dir.ts";

const SERVICE: Service = {
  program: '/opt/r b"s/dist/orchestrator',
  args: ["--local-mode", "--storage-root=/a $HOME/100%", "--region=a\\b"],
  workingDirectory: "/",
  environment: { PATH: "/usr/bin:/b in", RBS_REGION: 'x"y\\z%' },
  stateDirectory: "/home/ann/state",
  log: "/tmp/log",
};

Deno.test("a unit's text says what it starts, whatever the paths, and systemd takes it", async () => {
  const text = unitText(SERVICE);
  assert(
    text.includes(
      `ExecStart="/opt/r b\\"s/dist/orchestrator" "--local-mode" "--storage-root=/a $$HOME/100%%" "--region=a\\\\b"\n`,
    ),
    text,
  );
  assert(text.includes('Environment="RBS_REGION=x\\"y\\\\z%%"\n'), text);
  using folder = tempDirSync();
  const program = folder.join("orches trator");
  Deno.writeTextFileSync(program, "#!/bin/sh\n", { mode: 0o755 });
  const unit = folder.join("rbs-orchestrator.service");
  const verify = async (text: string) => {
    Deno.writeTextFileSync(unit, text);
    return await runProgram("systemd-analyze", ["verify", unit]);
  };
  const good = await verify(unitText({ ...SERVICE, program }));
  if (good.code === 127) return console.log("no systemd-analyze here: what it says of a unit is not known");
  assert.deepEqual(good, { code: 0, output: "" });
  const bad = await verify(unitText({ ...SERVICE, program: folder.join("gone") }));
  assert.notEqual(bad.code, 0);
});

Deno.test("each state directory has a unit of its own", () => {
  assert.equal(unitName("/home/ann/state", "/home/ann/state"), "rbs-orchestrator.service");
  assert.match(unitName("/tmp/other", "/home/ann/state"), /^rbs-orchestrator-[0-9a-f]{8}\.service$/);
});

Deno.test("systemd is told of a unit, and of its end", async () => {
  using folder = tempDirSync();
  const told: string[] = [];
  const run: Run = (program, args) => {
    told.push([program, ...args].join(" "));
    return Promise.resolve({ code: 0, output: args.includes("show") ? "4711" : "" });
  };

  const units = folder.join("systemd/user");
  const systemd = new Systemd(units, "u.service", run);
  await systemd.stop();
  assert.deepEqual([await systemd.isInstalled(), told], [false, []]);
  await systemd.start(SERVICE);
  assert.equal(Deno.readTextFileSync(join(units, "u.service")), unitText(SERVICE));
  assert.deepEqual([await systemd.isInstalled(), await systemd.pid()], [true, 4711]);
  await systemd.stop();
  assert.deepEqual(told.filter((line) => !line.includes("show")), [
    "systemctl --user daemon-reload",
    "systemctl --user enable u.service",
    "systemctl --user restart u.service",
    "systemctl --user disable --now u.service",
  ]);
});

Deno.test("what systemd refuses is said", async () => {
  using folder = tempDirSync();
  const refuses: Run = () => Promise.resolve({ code: 1, output: "Failed to connect to bus: No medium found" });

  assert.equal(await Systemd.isThere(refuses), false);
  const systemd = new Systemd(folder.path, "u.service", refuses);
  await assert.rejects(systemd.start(SERVICE), /`systemctl --user daemon-reload` failed \(Failed to connect to bus/);
  Deno.writeTextFileSync(folder.join("plain"), "");
  const nowhere = new Systemd(folder.join("plain/units"), "u.service", refuses);
  await assert.rejects(nowhere.start(SERVICE), /The unit .*plain\/units\/u\.service cannot be written/);
});
