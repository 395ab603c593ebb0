/** A program of a session looks for all by which its orchestrator is trusted, wherever the flags have put it. */
import assert from "node:assert/strict";
import { dirname, join } from "node:path";
import { isRoot } from "../../agent/namespace/mount_namespace.ts";
import { SESSION_KINDS, TestAgent, TestWorkspace } from "../../agent/test_agent.ts";
import { trustedPaths } from "../../orchestrator/trusted_paths.ts";
import { tempDir } from "../support/temp_dir.ts";

const SECRET = `a secret ${crypto.randomUUID()}`;
const IS_ROOT = await isRoot();

for (const [whose, options] of SESSION_KINDS) {
  for (const mode of ["shared", "synced"] as const) {
    Deno.test(`a program of a ${mode} session ${whose} finds no key, no credentials and no store outside of the state directory`, async () => {
      await using workspace = await TestWorkspace.make("ws", "", mode === "synced" && IS_ROOT ? "/" : undefined);
      await using stack = new AsyncDisposableStack();
      // A system folder is what a synced session sees of the machine.
      const elsewhere = stack.use(await tempDir(undefined, IS_ROOT ? "/opt" : "/var/tmp")).path;
      await Deno.chmod(elsewhere, 0o755);
      const { home } = workspace;
      const [state, user] = [join(workspace.root, "state"), join(workspace.root, "xdg/rbs")];
      const files = {
        stateKey: join(state, "keys/authority.pem"),
        caKey: join(elsewhere, "ca.key"),
        caCert: join(elsewhere, "ca.crt"),
        store: join(elsewhere, "db/sessions.sqlite"),
        google: join(elsewhere, "google.json"),
        gcloud: join(home, ".config/gcloud/application_default_credentials.json"),
        login: join(user, "keys/user.pem"),
      };
      for (const file of Object.values(files)) {
        await Deno.mkdir(dirname(file), { recursive: true });
        await Deno.writeTextFile(file, SECRET, { mode: 0o644 });
      }
      await Deno.writeTextFile(join(elsewhere, "other"), "anybody's");
      await Deno.symlink(files.caKey, join(elsewhere, "link.key"));
      const environment: Record<string, string> = {
        HOME: home,
        XDG_STATE_HOME: dirname(user),
        GOOGLE_APPLICATION_CREDENTIALS: files.google,
      };
      const world = {
        stateDir: state,
        storageRoot: join(state, "storage"),
        synced: mode === "synced",
        outsideAuthority: { certificateFile: files.caCert, keyFile: join(elsewhere, "link.key") },
        environment: (name: string) => environment[name],
      };
      const spanner = { kind: "spanner", database: "projects/p/instances/i/databases/d" } as const;
      const hidden = [
        ...trustedPaths({ ...world, store: { kind: "sqlite", file: files.store } }),
        ...trustedPaths({ ...world, store: spanner }),
      ];
      await using agent = await TestAgent.start(workspace, {
        storage: join(state, "storage/ann/ws"),
        ...mode === "synced" ? { syncedWithout: hidden } : { hidden },
        ...options,
      });
      using supervisor = agent.supervise();
      await supervisor.ready();
      // What SQLite makes beside its file while the session is there.
      await Deno.writeTextFile(files.store + "-wal", SECRET, { mode: 0o644 });
      const look = [...Object.values(files), files.store + "-wal", join(elsewhere, "link.key")].flatMap((file) => [
        `cat '${file}'`,
        `unshare --user --map-root-user --mount bash -c "umount '${file}'; umount '${dirname(file)}'; cat '${file}'"`,
        `mv '${file}' '${file}.moved' && cat '${file}.moved'`,
      ]).join("\n");
      assert.equal(await agent.sh(`{ ${look}\n} 2>/dev/null`), "");
      if (IS_ROOT || mode === "shared") assert.equal(await agent.sh(`cat ${elsewhere}/other`), "anybody's");
      for (const file of Object.values(files)) assert.equal(await Deno.readTextFile(file), SECRET);
    });
  }
}
