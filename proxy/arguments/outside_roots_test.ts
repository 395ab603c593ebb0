import assert from "node:assert/strict";
import { type Files, findOutsideRoots, linkedRoots } from "./outside_roots.ts";
import { oddArguments, type Request, request, seeded } from "./testing.ts";

const place = {
  workspace: "/home/ann/src/ws",
  outputBase: "/home/ann/.cache/bazel/_bazel_ann/0",
  installBase: "/usr/share/bazel",
};
const cwd = `${place.workspace}/sub`;

/** A developer's machine with these files, by path and text, and the folders around them. */
function machine(files: Record<string, string>, links: Record<string, string> = {}): Files {
  const paths = Object.keys(files);
  return {
    readFile: (path) => files[path],
    exists: (path) => paths.some((file) => file === path || file.startsWith(`${path}/`)) || path in links,
    realPath: (path) => links[path] ?? path,
  };
}

/** What is found on a machine that has all of `there`. */
function find(of: Request, there: string[], more: Record<string, string> = {}, links: Record<string, string> = {}) {
  const files = machine({ ...Object.fromEntries(there.map((path) => [path, ""])), ...more }, links);
  const args = request({ cwd, env: ["HOME=/home/ann", "PATH=/usr/bin:/home/ann/bin"], ...of });
  return findOutsideRoots({ args, cwd, ...place, ...files });
}

/** The same, without warnings. */
function roots(...args: Parameters<typeof find>): string[] {
  const { roots, warnings } = find(...args);
  assert.deepEqual(warnings, []);
  return roots.map(({ path }) => path);
}

Deno.test("a command that uses nothing outside of its workspace has no roots", () => {
  const typed = ["--override_repository=a=%workspace%/third_party/a", "--package_path=%workspace%", "//..."];
  assert.deepEqual(roots({ typed }, [`${place.workspace}/third_party/a/BUILD`]), []);
});

Deno.test("repositories and modules by path are found, the last for each name", () => {
  const rc = ["common --override_repository=a=/home/ann/a", "build --override_module=m=../../m"];
  const typed = ["--override_repository=b=/data/b", "--override_repository=a=/data/a", "--inject_repository", "c=~/c"];
  const there = ["/home/ann/a/x", "/data/a/x", "/data/b/x", "/home/ann/c/x", "/home/ann/src/m/x"];
  assert.deepEqual(roots({ rc, typed }, there), ["/data/a", "/home/ann/src/m", "/data/b", "/home/ann/c"]);
  assert.deepEqual(roots({ typed: [...typed, "--override_repository=b="] }, there), ["/data/a", "/home/ann/c"]);
});

Deno.test("files and folders that options name are found", () => {
  const typed = [
    "--package_path=%workspace%:/data/packages",
    "--distdir=/data/dist",
    "--distdir",
    "/data/dist2",
    "--tls_certificate=/home/ann/ca.pem",
    "--workspace_status_command=/home/ann/bin/status --all",
    "--run_under='/home/ann/bin/under' -v",
    "--registry=https://bcr.bazel.build",
    "--registry=file:///data/registry",
    "--sandbox_add_mount_pair=/data/mount:/mnt/x",
    "--fdo_optimize=//:profile",
  ];
  const names = ["packages", "dist", "dist2", "registry", "mount"].map((name) => `/data/${name}`);
  const files = ["/home/ann/ca.pem", "/home/ann/bin/status", "/home/ann/bin/under"];
  assert.deepEqual(roots({ typed }, [...names, ...files]).sort(), [...names, ...files].sort());
});

Deno.test("what is not there is left to Bazel", () => {
  assert.deepEqual(roots({ typed: ["--override_repository=a=/data/a", "--tls_client_key=/x"] }, []), []);
});

Deno.test("a private key goes, and its owner is told", () => {
  const { roots, warnings } = find({ typed: ["--tls_client_key=/home/ann/key.pem"] }, ["/home/ann/key.pem"]);
  assert.deepEqual(roots, [{ path: "/home/ann/key.pem", why: "--tls_client_key", leaveOut: [] }]);
  assert.match(warnings.join(), /^--tls_client_key=\/home\/ann\/key.pem is copied/);
});

Deno.test("what lies in a system folder stays there, which is said in one sentence", () => {
  const there = ["/usr/local/a/x", "/etc/b", "/usr/share/bazel/rules/cc/x"];
  const typed = ["--override_repository=a=/usr/local/a", "--tls_certificate=/etc/b"];
  const own = "--override_repository=cc=/usr/share/bazel/rules/cc"; // the agent has the same install base
  const { roots, warnings } = find({ typed: [own, ...typed] }, there);
  assert.deepEqual(roots, []);
  assert.equal(warnings.length, 1);
  assert.match(warnings[0], /^\/usr\/local\/a \(--override_repository\) and 1 more: .*build server's machine\.$/);
});

Deno.test("a folder that holds far more than a build needs stays here, by whatever name", () => {
  const typed = ["--package_path=/home/ann:/:/data/me"];
  const { roots, warnings } = find({ typed }, ["/home/ann/x"], {}, { "/": "/", "/data/me": "/home/ann" });
  assert.deepEqual(roots, []);
  assert.equal(warnings.length, 3);
});

Deno.test("a root around the workspace leaves the workspace out, and what lies in a root is no other", () => {
  const module = `local_path_override(module_name = "rules", path = "../")`;
  const typed = ["--override_module=b=/home/ann/src/b"];
  const found = find({ typed }, ["/home/ann/src/b/x"], { [`${place.workspace}/MODULE.bazel`]: module });
  assert.deepEqual(found, {
    roots: [{ path: "/home/ann/src", why: "local_path_override in MODULE.bazel", leaveOut: [place.workspace] }],
    warnings: [],
  });
});

Deno.test("WORKSPACE and MODULE.bazel are read, with the files of the workspace that they load", () => {
  const files = {
    "WORKSPACE":
      `load("//tools:repos.bzl", "repos")\nload("@other//:x.bzl", "x")\nlocal_repository(name = "a", path = "/data/a")`,
    "tools/repos.bzl": `load(":more.bzl", "more")\nload("//tools:repos.bzl", "repos")`,
    "tools/more.bzl": `def more():\n    native.local_repository(name = "b", path = "../../b")`,
    "MODULE.bazel": `include("//m:m.MODULE.bazel")`,
    "m/m.MODULE.bazel": `local_path_override(module_name = "c", path = "third_party/c")`,
  };
  const there = ["/data/a/x", "/home/ann/b/x", `${place.workspace}/third_party/c/x`];
  const more = Object.fromEntries(Object.entries(files).map(([name, text]) => [`${place.workspace}/${name}`, text]));
  assert.deepEqual(find({}, there, more).roots.map(({ path, why }) => [path, why]), [
    ["/data/a", "local_repository in WORKSPACE"],
    ["/home/ann/b", "local_repository in tools/more.bzl"],
  ]);
});

Deno.test("what is hidden in the home folder goes only if an option names it", () => {
  const workspace = `local_repository(name = "a", path = "/home/ann/.ssh")`;
  const there = ["/home/ann/.ssh/id_ed25519", "/home/ann/.rules/x"];
  const typed = ["--override_repository=rules=/home/ann/.rules"];
  const { roots, warnings } = find({ typed }, there, { [`${place.workspace}/WORKSPACE`]: workspace });
  assert.deepEqual(roots.map(({ path }) => path), ["/home/ann/.rules"]);
  assert.match(warnings.join(), /^\/home\/ann\/.ssh \(local_repository in WORKSPACE\) is not synced/);
});

Deno.test("a credential helper goes if it is the user's own, with a word about where it runs", () => {
  const typed = ["--credential_helper=*.example.com=helper", "--credential_helper=%workspace%/tools/other"];
  const { roots, warnings } = find({ typed }, ["/home/ann/bin/helper", `${place.workspace}/tools/other`]);
  assert.deepEqual(roots.map(({ path }) => path), ["/home/ann/bin/helper"]);
  assert.equal(warnings.filter((warning) => /runs on the build server's machine/.test(warning)).length, 2);
});

Deno.test("the user's default credentials are not looked for", () => {
  assert.match(find({ typed: ["--google_default_credentials"] }, []).warnings.join(), /--google_credentials\.$/);
  assert.deepEqual(find({ typed: ["--google_default_credentials=false"] }, []).warnings, []);
});

Deno.test("a profile to analyze is a file that the server reads", () => {
  const there = ["/tmp/p.gz", `${place.outputBase}/command.profile.gz`];
  assert.deepEqual(roots({ command: "analyze-profile", typed: there }, there), ["/tmp/p.gz"]);
});

/**
 * What links of the workspace lead to; `others` are links outside of it, by path and target, and `inRoots` those in other
 * trees that were looked at, of which the command names some.
 */
function linked(
  links: Record<string, string>,
  there: string[],
  others: Record<string, string> = {},
  inRoots: Record<string, Record<string, string>> = {},
  named: string[] = [],
) {
  const files = machine(Object.fromEntries(there.map((path) => [path, ""])), others);
  const trees: Record<string, Record<string, string>> = { [place.workspace]: links, ...inRoots };
  return linkedRoots(
    [place.workspace, ...named],
    {
      ...place,
      ...files,
      home: "/home/ann",
      links: (root) => Object.entries(trees[root] ?? {}).map(([name, target]) => ({ path: `${root}/${name}`, target })),
      holdsMore: (path) => Promise.resolve(path === "/data/huge"),
      readLink: (path) => others[path],
    },
  );
}

Deno.test("links lead to roots, unless that is the system's, the output base's, or too much", async () => {
  const links = {
    "inside": "sub/x",
    "data": "/data/set/",
    "sub/up": "../../other/file",
    "deeper": "/data/set/deep",
    "bazel-bin": `${place.outputBase}/execroot/ws/bazel-out/k8-fastbuild/bin`,
    "sub/bazel-bin": "/home/ann/.cache/bazel/_bazel_ann/1/execroot/x/bazel-out/bin",
    "venv/bin/python": "/usr/bin/python3",
    "dangling": "/data/gone",
    "home": "/home/ann",
    "huge": "/data/huge",
    "keys": "/home/ann/.ssh",
  };
  const there = [
    "/data/set/deep/x",
    "/home/ann/src/other/file",
    "/home/ann/.ssh/id_ed25519",
    "/usr/bin/python3",
    "/data/huge/x",
  ];
  const { roots, warnings, missing } = await linked(links, there);
  assert.deepEqual(roots.map(({ path }) => path), ["/data/set", "/home/ann/src/other/file"]);
  assert.deepEqual(warnings.map((warning) => warning.split(/[ ,]/)[0]), ["/home/ann", "/data/huge", "/home/ann/.ssh"]);
  assert.deepEqual(missing, ["/data/gone"]);
});

Deno.test("a link that leads to the link of a file takes along all on the way, and a circle ends", async () => {
  const others = { "/data/latest": "2024/set", "/data/2024/set": "/data/store/1", "/data/a": "b", "/data/b": "a" };
  const { roots } = await linked({ one: "/data/latest", two: "/data/a" }, ["/data/store/1"], others);
  const paths = ["/data/latest", "/data/2024/set", "/data/store/1", "/data/a", "/data/b"];
  assert.deepEqual(roots.map(({ path }) => path), paths);
});

Deno.test("links in what a command names, and in what links lead to, are followed to any depth", async () => {
  const inRoots = {
    "/data/named": { a: "../one/x" },
    "/data/one/x": { b: "/data/two", back: "../../named" },
    "/data/two": { "deep/c": "/data/three/file", dangling: "/data/gone" },
    "/data/other": { d: "/data/four" },
  };
  const there = ["/data/named/f", "/data/one/x/f", "/data/two/f", "/data/three/file", "/data/four/f", "/data/other/f"];
  const { roots, missing } = await linked({}, there, {}, inRoots, ["/data/named"]);
  const paths = ["/data/named", "/data/one/x", "/data/three/file", "/data/two"];
  assert.deepEqual(roots.map(({ path }) => path).sort(), paths);
  assert.deepEqual(missing, ["/data/gone"]);
});

Deno.test("symlinks that lead to very many places are followed to some, which is said once", async () => {
  const links = Object.fromEntries(Array.from({ length: 6_000 }, (_, i) => [`l${i}`, `/data/${i}`]));
  const { roots, warnings } = await linkedRoots([place.workspace], {
    ...place,
    ...machine({}),
    exists: () => true,
    links: (root) =>
      root === place.workspace
        ? Object.entries(links).map(([name, target]) => ({ path: `${root}/${name}`, target }))
        : [],
    holdsMore: () => Promise.resolve(false),
    readLink: () => undefined,
  });
  assert.equal(roots.length, 5_000);
  assert.equal(warnings.length, 1);
  assert.match(
    warnings[0],
    /^\/data\/5000, which .*l5000 leads to, is not synced, since symlinks lead to more than 5,000/,
  );
});

Deno.test("whatever the arguments are, nothing is thrown, and roots are absolute", () => {
  const random = seeded(4);
  const files = machine({}, { "/": "/" });
  for (let i = 0; i < 3_000; i++) {
    const { roots } = findOutsideRoots({ args: oddArguments(random), cwd, ...place, ...files, exists: () => true });
    for (const { path } of roots) assert.match(path, /^\//);
  }
});

Deno.test("RBS_HOME_FILES names files of the home folder, and who can read them is said", () => {
  const there = ["/home/ann/.netrc", "/home/ann/.docker/config.json", "/home/ann/.ssh/id", "/etc/passwd"];
  const asking = (value: string) => find({ env: ["HOME=/home/ann", `RBS_HOME_FILES=${value}`] }, there);
  const { roots, warnings } = asking(".netrc:.docker/config.json:.npmrc");
  assert.deepEqual(roots.map(({ path }) => path), ["/home/ann/.netrc", "/home/ann/.docker/config.json"]);
  assert.match(warnings[0], /^\/home\/ann\/\.netrc \(RBS_HOME_FILES\) is copied .* can read it there\.$/);
  assert.equal(warnings.length, 2);
  for (const value of [".", "../bob/.netrc", "/etc/passwd"]) {
    const { roots, warnings } = asking(value);
    assert.deepEqual(roots, []);
    assert.match(warnings.join(), /^RBS_HOME_FILES names .*, which is not in your home folder/);
  }
  assert.deepEqual(find({ env: ["HOME=/home/ann", "RBS_HOME_FILES="] }, there), { roots: [], warnings: [] });
});

Deno.test("of a stamping script that runs git it is said how .git goes along", () => {
  const script = `${place.workspace}/tools/status.sh`;
  const warned = (files: Record<string, string>) =>
    find({ typed: ["--workspace_status_command=tools/status.sh"] }, [`${place.workspace}/.git/HEAD`], files).warnings;
  assert.match(warned({ [script]: "echo C $(git rev-parse HEAD)" }).join(), /runs git .* `!\.git` into \.rbsignore/);
  assert.deepEqual(warned({ [script]: "echo STABLE_DIGIT 1" }), []);
  assert.deepEqual(warned({ [script]: "git log", [`${place.workspace}/.rbsignore`]: "out\n!.git\n" }), []);
});
