import assert from "node:assert/strict";
import { ROOTS_UNSHARE } from "./confined_root.ts";
import { HeldMaker } from "./held_maker.ts";
import { tempDir } from "../../tests/support/temp_dir.ts";

/** Prints its arguments, and then what is left of its standard input. */
const SHOW = ["bash", "-c", `printf '<%s>' "$@"; cat`, "bash"];
const WORDS = ["", "a b", "line\nbreak", "'\"\\$(x)", "ü", "%s", "-n", ""];

async function ended(process: Deno.ChildProcess) {
  const { code, stdout, stderr } = await process.output();
  const decoder = new TextDecoder();
  return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

Deno.test("a held maker executes the words as they are, and takes no byte of what follows", async () => {
  using maker = HeldMaker.ofAnyone();
  const taken = maker.take([...SHOW, ...WORDS])!;
  await taken.stdin.write(new TextEncoder().encode("run 1\n\0rest"));
  await taken.stdin.close();
  const { stdout, stderr } = await ended(taken.process);
  assert.equal(stdout, `${WORDS.map((word) => `<${word}>`).join("")}run 1\n\0rest`, stderr);
  assert.equal(maker.take(SHOW), undefined, "it is used up");
  using other = HeldMaker.ofAnyone();
  assert.equal(other.take([...SHOW, "a\0b"]), undefined, "no argument holds that");
});

Deno.test(
  "of root: Perl runs the program that comes, in namespaces that are there",
  { ignore: Deno.uid() !== 0 },
  async () => {
    const show = String.raw`my $pid = $$; print "user namespace\n" if -e "/proc/self/fd/" . fileno $namespace;
    print "$pid", map { "<$_>" } @ARGV; $| = 1; print ""; exec "cat"`;
    using maker = HeldMaker.ofRoot();
    const { process, stdin } = maker.take([...ROOTS_UNSHARE, "perl", "-e", show, ...WORDS])!;
    await stdin.write(new TextEncoder().encode("rest"));
    await stdin.close();
    const { stdout, stderr } = await ended(process);
    assert.equal(stdout, `user namespace\n1${WORDS.map((word) => `<${word}>`).join("")}rest`, stderr);

    using failing = HeldMaker.ofRoot();
    const other = failing.take([...ROOTS_UNSHARE, "perl", "-e", `die "it does not work here\n"`])!;
    const result = await ended(other.process);
    assert.deepEqual([result.code, result.stderr], [255, "it does not work here\n"]);

    using another = HeldMaker.ofRoot();
    assert.equal(
      another.take([...ROOTS_UNSHARE, "--net", "perl", "-e", show]),
      undefined,
      "it has no network of its own",
    );
  },
);

Deno.test("a maker from before something was mounted is not taken", { ignore: Deno.uid() !== 0 }, async () => {
  await using folder = await tempDir();
  using maker = HeldMaker.ofRoot();
  const mount = (...args: string[]) => new Deno.Command(args[0], { args: args.slice(1) }).output();
  await mount("mount", "--bind", folder.path, folder.path);
  try {
    assert.equal(maker.take([...ROOTS_UNSHARE, "perl", "-e", "exit"]), undefined);
  } finally {
    await mount("umount", "--lazy", folder.path);
  }
});

Deno.test("who holds on ends with the agent's end of its input, and one that has ended is not taken", async () => {
  for (const maker of [HeldMaker.ofAnyone(), ...Deno.uid() === 0 ? [HeldMaker.ofRoot()] : []]) {
    maker[Symbol.dispose]();
    assert.equal(maker.take(SHOW), undefined);
    await maker.ended;
  }
});
