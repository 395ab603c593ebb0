import assert from "node:assert/strict";
import { TestPlace } from "./fake_services.ts";
import { runSetup, type SetupOptions } from "./setup.ts";
import { lastOption, readStartupOptions } from "./rc_options.ts";

class SetupPlace extends TestPlace {
  readonly javabase = `${this.root}/dist/java base`;
  readonly home = `${this.root}/home`;
  said: string[] = [];

  constructor() {
    super();
    Deno.mkdirSync(this.home);
    Deno.mkdirSync(`${this.javabase}/bin`, { recursive: true });
    Deno.writeTextFileSync(`${this.javabase}/bin/java`, "#!/bin/sh\n# rbs\n", { mode: 0o755 });
  }

  setup(options: Partial<SetupOptions>, ask?: (question: string) => string | null): number {
    this.said = [];
    const javabase = this.javabase;
    const say = (line: string) => void this.said.push(line);
    return runSetup({ javabase, ...options }, { workingDirectory: `${this.workspace}/pkg`, home: this.home, say, ask });
  }

  get effective() {
    return lastOption(readStartupOptions([`${this.workspace}/.bazelrc`, `${this.home}/.bazelrc`]), "server_javabase");
  }
}

Deno.test("setup --workspace makes the rc file, says so, and a second time changes nothing", () => {
  using place = new SetupPlace();
  assert.equal(place.setup({ workspace: true }), 0);
  assert.equal(place.effective?.value, place.javabase);
  assert.match(place.said.join("\n"), /Made .*ws\/\.bazelrc[\s\S]*startup "--server_javabase=[\s\S]*--remove/);
  const before = Deno.statSync(`${place.workspace}/.bazelrc`);
  assert.equal(place.setup({ workspace: true }), 0);
  assert.match(place.said[0], /nothing was changed/);
  assert.equal(Deno.statSync(`${place.workspace}/.bazelrc`).ino, before.ino);
  assert.equal(place.setup({ workspace: true, remove: true }), 0);
  assert.throws(() => Deno.statSync(`${place.workspace}/.bazelrc`), Deno.errors.NotFound);
});

Deno.test("setup --home keeps mode and content of the file, follows a link to it, and --remove restores it", () => {
  using place = new SetupPlace();
  const target = `${place.root}/dotfiles bazelrc`;
  Deno.writeTextFileSync(target, "build --jobs=3");
  Deno.chmodSync(target, 0o640);
  Deno.symlinkSync("../dotfiles bazelrc", `${place.home}/.bazelrc`);
  assert.equal(place.setup({ home: true }), 0);
  assert.equal(Deno.readLinkSync(`${place.home}/.bazelrc`), "../dotfiles bazelrc");
  assert.equal(Deno.statSync(target).mode! & 0o777, 0o640);
  assert.equal(place.effective?.value, place.javabase);
  assert.equal(place.setup({ home: true, remove: true }), 0);
  assert.equal(Deno.readTextFileSync(target), "build --jobs=3");
  assert.equal(place.setup({ home: true, remove: true }), 0);
  assert.match(place.said[0], /no rbs block/);
  assert.deepEqual([...Deno.readDirSync(place.root)].filter((e) => e.name.includes(".rbs-")), []);
});

Deno.test("setup without a choice explains both, writes nothing, and exits 2", () => {
  using place = new SetupPlace();
  assert.equal(place.setup({}), 2);
  const said = place.said.join("\n");
  assert.match(said, /--workspace .*ws\/\.bazelrc/);
  assert.match(said, /--home .*home\/\.bazelrc/);
  assert.equal(place.effective, undefined);
});

Deno.test("setup asks at a terminal", () => {
  using place = new SetupPlace();
  assert.equal(place.setup({}, () => "h"), 0);
  assert.equal(place.effective?.file, `${place.home}/.bazelrc`);
  assert.throws(() => place.setup({}, () => null), /nothing was changed/);
});

Deno.test("setup --print writes nothing", () => {
  using place = new SetupPlace();
  assert.equal(place.setup({ print: true, workspace: true }), 0);
  assert.match(place.said.join("\n"), /^# For .*\n# >>> rbs/);
  assert.equal(place.effective, undefined);
});

Deno.test("setup refuses a javabase that is not there or not ours, and two choices at once", () => {
  using place = new SetupPlace();
  assert.throws(
    () => place.setup({ home: true, javabase: `${place.root}/no` }),
    /There is no javabase of RBS at .*deno task compile/,
  );
  Deno.writeTextFileSync(`${place.javabase}/bin/java`, "#!/bin/sh\nexec jdk\n");
  assert.throws(() => place.setup({ home: true }), /is not RBS's/);
  assert.throws(() => place.setup({ home: true, workspace: true }), /exclude each other/);
  assert.throws(() => place.setup({ home: true, javabase: "/a\nb" }), /cannot hold the path/);
  assert.equal(place.effective, undefined);
});

Deno.test("setup names a later line that overrides it", () => {
  using place = new SetupPlace();
  assert.equal(place.setup({ workspace: true }), 0);
  const rc = `${place.workspace}/.bazelrc`;
  Deno.writeTextFileSync(rc, "startup --server_javabase=/elsewhere\n", { append: true });
  assert.equal(place.setup({ workspace: true }), 0);
  assert.match(place.said.at(-1)!, /also says --server_javabase=\/elsewhere/);
});

Deno.test("setup leaves nothing half-written where it may not write", () => {
  using place = new SetupPlace();
  assert.throws(() => place.setup({ rc: `${place.root}/none/rc` }), /none\/rc cannot be written .*nothing was changed/);
  Deno.writeFileSync(`${place.root}/binary`, Uint8Array.of(0xff, 0xfe));
  assert.throws(() => place.setup({ rc: `${place.root}/binary` }), /is not UTF-8/);
});
