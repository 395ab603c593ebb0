/**
 * `deno task setup`: sees what the demo and the tests need on this machine, installs what is missing where it may
 * (Debian and its kin, as root), and otherwise says what to install.
 */

/** Something that must be there. */
interface Need {
  what: string;
  /** Any one of these programs on the PATH will do. */
  programs: readonly string[];
  /** The Debian package that has it. */
  debian: string;
  /** Where to get it on other systems. */
  elsewhere: string;
}

const NEEDS: readonly Need[] = [
  {
    what: "Bazel",
    programs: ["bazel"],
    debian: "bazel-bootstrap",
    elsewhere: "Bazelisk, as `bazel` on the PATH (npm install --global @bazel/bazelisk)",
  },
  { what: "a JDK", programs: ["javac"], debian: "default-jdk-headless", elsewhere: "any JDK, 11 or later" },
  { what: "bubblewrap", programs: ["bwrap"], debian: "bubblewrap", elsewhere: "bubblewrap" },
  { what: "a C++ compiler", programs: ["g++", "c++", "clang++"], debian: "g++", elsewhere: "gcc or clang for C++" },
  {
    what: "script and unshare",
    programs: ["script", "unshare"],
    debian: "bsdutils util-linux",
    elsewhere: "util-linux",
  },
  { what: "ps", programs: ["ps"], debian: "procps", elsewhere: "procps" },
];

/**
 * Makes sure that all is there.
 *
 * @param say Gets a line of progress.
 * @returns false when something is missing that could not be installed; what to do was said.
 */
export async function setup(say: (line: string) => void): Promise<boolean> {
  const missing = NEEDS.filter((need) => !isThere(need));
  if (missing.length === 0) return true;
  say(`Missing here: ${missing.map(({ what }) => what).join(", ")}.`);

  if (!onPath("apt-get")) {
    say("Please install, by this system's own means:");
    for (const { what, elsewhere } of missing) say(`  ${what}: ${elsewhere}`);
    return false;
  }
  const packages = missing.flatMap(({ debian }) => debian.split(" "));
  if (Deno.uid() !== 0) {
    const bazelisk = packages.includes("bazel-bootstrap") && !await isInArchive("bazel-bootstrap");
    const names = packages.filter((name) => !(bazelisk && name === "bazel-bootstrap")).join(" ");
    const apt = names && `sudo apt-get update && sudo apt-get install -y --no-install-recommends ${names}`;
    const npm = bazelisk && "sudo npm install --global @bazel/bazelisk";
    say("Please run this, then try again:");
    say(`  ${[apt, npm].filter(Boolean).join(" && ")}`);
    return false;
  }

  if (await listsAreEmpty()) {
    say("Reading the package lists (apt-get update)");
    if (!await apt(["update"], say)) return false;
  }
  say(`Installing ${packages.join(", ")} (apt-get install)`);
  if (!await apt(["install", "-y", "--no-install-recommends", ...packages], say)) {
    // The lists may be older than the archive.
    say("Once more, with fresh package lists (apt-get update)");
    if (!await apt(["update"], say) || !await apt(["install", "-y", "--no-install-recommends", ...packages], say)) {
      say(`apt-get cannot install them; try: apt-get install ${packages.join(" ")}`);
      return false;
    }
  }
  const still = NEEDS.filter((need) => !isThere(need));
  if (still.length > 0) say(`Still missing after the installation: ${still.map(({ what }) => what).join(", ")}.`);
  return still.length === 0;
}

function isThere({ what, programs }: Need): boolean {
  // The first is one package's two programs; elsewhere any one will do.
  return what.includes(" and ") ? programs.every(onPath) : programs.some(onPath);
}

function onPath(program: string): boolean {
  return (Deno.env.get("PATH") ?? "").split(":").some((folder) => {
    try {
      const { isFile, mode } = Deno.statSync(`${folder || "."}/${program}`);
      return isFile && ((mode ?? 0) & 0o111) !== 0;
    } catch {
      return false;
    }
  });
}

async function listsAreEmpty(): Promise<boolean> {
  const { stdout } = await new Deno.Command("apt-cache", { args: ["policy", "bubblewrap"], stderr: "null" }).output();
  return !new TextDecoder().decode(stdout).includes("Candidate:");
}

async function isInArchive(name: string): Promise<boolean> {
  const { stdout } = await new Deno.Command("apt-cache", { args: ["policy", name], stderr: "null" }).output();
  return /Candidate: (?!\(none\))/.test(new TextDecoder().decode(stdout));
}

/** Runs apt-get, showing what it is at; says its last words when it fails. */
async function apt(args: string[], say: (line: string) => void): Promise<boolean> {
  const child = new Deno.Command("apt-get", {
    args: ["-o", "DPkg::Lock::Timeout=300", ...args],
    env: { DEBIAN_FRONTEND: "noninteractive" },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const said: string[] = [];
  const show = async (stream: ReadableStream<Uint8Array>) => {
    let rest = "";
    for await (const text of stream.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + text).split("\n");
      rest = lines.pop()!;
      said.push(...lines);
      for (const line of lines) if (/^(Setting up|Need to get)/.test(line)) say(`  ${line}`);
    }
    said.push(rest);
  };
  await Promise.all([show(child.stdout), show(child.stderr)]);
  const { success } = await child.status;
  if (!success) { for (const line of said.filter((line) => /^[EW]: /.test(line)).slice(-5)) say(`  ${line}`); }
  return success;
}

if (import.meta.main) {
  const ready = await setup((line) => console.log(line));
  if (ready) console.log("All that is needed is there.");
  Deno.exit(ready ? 0 : 1);
}
