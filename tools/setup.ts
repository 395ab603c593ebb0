/**
 * `deno task setup`: sees what the demo and the tests need on this machine, installs what is missing where it may
 * (Debian and its kin, as root), and otherwise says what to install.
 */

/** Something that must be there. */
export interface Need {
  what: string;
  /** Any one of these programs on the PATH will do, */
  programs: readonly string[];
  /** unless all are needed. */
  all?: true;
  /** The Debian package that has it. */
  debian: string;
  /** Where to get it on other systems. */
  elsewhere: string;
}

const BAZEL = "bazel-bootstrap";

const NEEDS: readonly Need[] = [
  {
    what: "Bazel",
    programs: ["bazel"],
    debian: BAZEL,
    elsewhere: "Bazelisk, as `bazel` on the PATH (npm install --global @bazel/bazelisk)",
  },
  { what: "a JDK", programs: ["javac"], debian: "default-jdk-headless", elsewhere: "any JDK, 11 or later" },
  { what: "bubblewrap", programs: ["bwrap"], debian: "bubblewrap", elsewhere: "bubblewrap" },
  { what: "a C++ compiler", programs: ["g++", "c++", "clang++"], debian: "g++", elsewhere: "gcc or clang for C++" },
  {
    what: "script and unshare",
    programs: ["script", "unshare"],
    all: true,
    debian: "bsdutils util-linux",
    elsewhere: "util-linux",
  },
  { what: "ps", programs: ["ps"], debian: "procps", elsewhere: "procps" },
];

/** What only the tests need: they join two network namespaces by a link. */
export const IP: Need = { what: "ip", programs: ["ip"], debian: "iproute2", elsewhere: "iproute2" };

/** What only the benchmark of sync needs, to compare with. */
export const RSYNC: Need = { what: "rsync", programs: ["rsync"], debian: "rsync", elsewhere: "rsync" };

/**
 * Makes sure that all is there.
 *
 * @param say Gets a line of progress.
 * @param more What is needed beside what the demo needs.
 * @returns false when something is missing that could not be installed; what to do was said.
 */
export async function setup(say: (line: string) => void, more: readonly Need[] = []): Promise<boolean> {
  const needs = [...NEEDS, ...more];
  const missing = needs.filter((need) => !isThere(need));
  if (missing.length === 0) return true;
  say(`Missing here: ${missing.map(({ what }) => what).join(", ")}.`);

  if (!onPath("apt-get")) {
    say("Please install, by this system's own means:");
    for (const { what, elsewhere } of missing) say(`  ${what}: ${elsewhere}`);
    return false;
  }
  const root = Deno.uid() === 0;
  if (root && !await isInArchive("bubblewrap")) {
    say("Reading the package lists (apt-get update)");
    if (!await apt(["update"], say)) return false;
  }
  const packages = missing.flatMap(({ debian }) => debian.split(" "));
  // Not every kin of Debian has Bazel. Empty package lists tell nothing.
  const bazelisk = packages.includes(BAZEL) && !await isInArchive(BAZEL) && await isInArchive("bubblewrap");
  if (bazelisk) packages.splice(packages.indexOf(BAZEL), 1);
  const install = ["install", "-y", "--no-install-recommends", ...packages];
  const npm = ["install", "--global", "@bazel/bazelisk"];

  if (!root) {
    const apt = packages.length > 0 && `sudo apt-get update && sudo apt-get ${install.join(" ")}`;
    say("Please run this, then try again:");
    say(`  ${[apt, bazelisk && `sudo npm ${npm.join(" ")}`].filter(Boolean).join(" && ")}`);
    return false;
  }
  if (packages.length > 0) {
    say(`Installing ${packages.join(", ")} (apt-get install)`);
    if (!await apt(install, say)) {
      say("Once more, with fresh package lists (apt-get update)"); // They may be older than the archive.
      if (!await apt(["update"], say) || !await apt(install, say)) {
        say(`apt-get cannot install them; this shows why: apt-get ${install.join(" ")}`);
        return false;
      }
    }
  }
  if (bazelisk) {
    say("Installing Bazelisk (npm install)");
    await new Deno.Command("npm", { args: npm, stdin: "null", stdout: "null" }).output();
  }
  const still = needs.filter((need) => !isThere(need));
  if (still.length > 0) say(`Still missing after the installation: ${still.map(({ what }) => what).join(", ")}.`);
  return still.length === 0;
}

function isThere({ programs, all }: Need): boolean {
  return all ? programs.every(onPath) : programs.some(onPath);
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

/** Whether apt knows a package by its lists. */
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
  // Hundreds of packages come along: only those that were asked for are worth a line.
  const shown = new RegExp(`^(Need to get|Setting up (${args.map(RegExp.escape).join("|")})[ :])`);
  const show = async (stream: ReadableStream<Uint8Array>) => {
    let rest = "";
    for await (const text of stream.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + text).split("\n");
      rest = lines.pop()!;
      said.push(...lines);
      for (const line of lines) if (shown.test(line)) say(`  ${line}`);
    }
    said.push(rest);
  };
  await Promise.all([show(child.stdout), show(child.stderr)]);
  const { success } = await child.status;
  if (!success) { for (const line of said.filter((line) => /^[EW]: /.test(line)).slice(-5)) say(`  ${line}`); }
  return success;
}

if (import.meta.main) {
  const ready = await setup((line) => console.log(line), [IP, RSYNC]);
  if (ready) console.log("All that is needed is there.");
  Deno.exit(ready ? 0 : 1);
}
