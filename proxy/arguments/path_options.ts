/**
 * Every option of Bazel's commands that names a path, and what happens to the path where laptop and agent share no
 * disk. `deno task path-options` prints those of a Bazel that are missing here.
 *
 * Rows apply to each generation with the option: verified with 2.1.0, 4.2.3 and 7.7.1, except where a comment says
 * otherwise. An unknown, newer option whose value is an absolute path causes one warning.
 */
import { systemFolderOf } from "../../proto/base/system_folders.ts";
import { filePath } from "./starlark_paths.ts";

/** The base of a relative path. The server's working directory is the workspace. */
export type Base = "workspace" | "cwd" | "either" | "output base";

/** A file or directory that the server reads: it is sent to the agent, and nothing is copied back. */
export interface InOption {
  use: "in";
  /** @default "workspace" */
  base?: "cwd" | "workspace";
  /** The path in the value; undefined if there is none. @default the whole value */
  path?(value: string): string | undefined;
  /** Of several values only the last counts. */
  last?: boolean;
  /** The file is a secret: the user is told once if it is sent. */
  secret?: boolean;
  /** The value is NAME=PATH. The last for each name counts, and an empty path removes it. */
  named?: boolean;
}

/** A file that the server writes: it is copied back. */
export interface OutOption {
  use: "out";
  base: Base;
  /** Bazel continues if it cannot be written, and so does RBS. */
  secondary?: boolean;
  /** The name of another option with the same meaning: the last of them counts. */
  same?: string;
}

/** A directory that must exist: it is made empty at the agent, and its contents are not copied. */
export interface FolderOption {
  use: "folder";
}

/** What the server writes for itself and finds again on its own machine, or a program of that machine. */
export interface StaysOption {
  use: "stays";
  /** Shown once when the option is used, after the option and its value. */
  warning?: string;
  /** The warning applies only to paths outside of the workspace. @default to all */
  outside?: boolean;
}

/** Names no path, although its name, description or value may look like one. */
export interface NoPathOption {
  use: "none";
}

/** How an option's path is used. */
export type PathOption = InOption | OutOption | FolderOption | StaysOption | NoPathOption;

const file: InOption = { use: "in", last: true };
const folders: InOption = { use: "in" };
const secret: InOption = { use: "in", last: true, secret: true };
const fromCwd: InOption = { use: "in", last: true, base: "cwd" };
/** A command, possibly with arguments: its program counts if it has an absolute path. */
const command: InOption = { use: "in", last: true, path: program };
const override: InOption = { use: "in", base: "cwd", named: true };
/**
 * The programs of `--credential_helper`: PROGRAM or HOST=PROGRAM, possibly on the client's PATH. See outside_roots.ts.
 */
const helper: StaysOption = { use: "stays" };
const stays: StaysOption = { use: "stays" };
/** `unix:/path` is a socket, which exists on one machine only. */
const socket: StaysOption = { use: "stays", warning: "names a socket of the build server's machine, not of this one." };
const folder: FolderOption = { use: "folder" };
const none: NoPathOption = { use: "none" };
const out = (base: Base, same?: string): OutOption => ({ use: "out", base, same });
const secondary = (base: Base): OutOption => ({ use: "out", base, secondary: true });

/** The table. Names have no dashes. */
export const PATH_OPTIONS: Readonly<Record<string, PathOption>> = {
  // in
  adb: command, // of `mobile-install`, until 7
  cs_fdo_absolute_path: file,
  distdir: folders,
  downloader_config: folders, // since 8 by this name, and more than once
  experimental_builtins_bzl_path: { ...file, path: (value) => value.startsWith("%bundled%") ? undefined : value },
  experimental_distdir: folders,
  experimental_downloader_config: folders, // since 4
  experimental_remote_scrubbing_config: file, // since 7
  experimental_repository_hash_file: file, // until 6
  experimental_resolved_file_instead_of_workspace: file,
  experimental_sandboxfs_path: command, // until 6
  // A label names something in the workspace.
  fdo_optimize: { ...file, path: (value) => /^(@|\/\/|:)/.test(value) ? undefined : value },
  google_credentials: secret,
  inject_repository: override, // since 8
  override_module: override, // since 6
  override_repository: override,
  package_path: none, // a list of paths: see outside_roots.ts
  platform_mappings: file,
  propeller_optimize_absolute_cc_profile: file, // since 6
  propeller_optimize_absolute_ld_profile: file, // since 6
  query_file: fromCwd,
  registry: { ...folders, path: (value) => filePath(value)?.replace(/^\/%workspace%/, "%workspace%") }, // since 5
  run_under: command,
  sandbox_add_mount_pair: { ...folders, path: (value) => value.split(/(?<!\\):/)[0].replaceAll("\\:", ":") },
  shell_executable: { ...file, path: (value) => systemFolderOf(value) ? undefined : value },
  "starlark:file": fromCwd, // since 4
  target_pattern_file: fromCwd, // since 4
  tls_certificate: file,
  tls_client_certificate: file, // since 4
  // The server makes the connection, and needs the key for it. A user who names the key wants it used.
  tls_client_key: secret, // since 4
  workspace_status_command: command,

  // out; those marked with * were read in the source of 4.2.3 and 7.7.1
  action_graph: out("workspace"), // of `dump`, until 6
  build_event_binary_file: out("workspace"),
  build_event_json_file: out("workspace"),
  build_event_text_file: out("workspace"),
  combine: out("either"), // * of `analyze-profile`, until 2
  call_count_output_path: out("workspace"), // * until 6
  execution_log_binary_file: out("cwd"),
  execution_log_compact_file: out("cwd"), // since 7.1
  execution_log_json_file: out("cwd"),
  experimental_aquery_dump_after_build_output_file: out("output base"), // since 4
  experimental_execution_graph_log_path: out("workspace"), // since 7
  experimental_execution_log_compact_file: out("cwd", "execution_log_compact_file"), // * its older name
  experimental_execution_log_file: out("cwd"), // until 6
  experimental_remote_grpc_log: out("cwd", "remote_grpc_log"), // * its older name
  experimental_repository_resolved_file: out("workspace"),
  experimental_workspace_rules_log_file: out("either"), // 2.1: the workspace; later: the client's working directory
  explain: secondary("workspace"),
  memory_profile: secondary("cwd"),
  output_file: out("cwd"), // of `query`, `cquery` and `aquery`, since 7
  profile: secondary("workspace"),
  remote_grpc_log: out("cwd"), // * since 7
  script_path: out("cwd"), // of `run`
  skylark_memory: out("workspace"), // * of `dump`
  starlark_cpu_profile: secondary("workspace"), // since 4

  // folders that must exist
  sandbox_base: folder,
  sandbox_block_path: folder,
  sandbox_tmpfs_path: folder,
  sandbox_writable_path: folder,

  // stays there
  bes_backend: socket,
  bes_proxy: socket,
  credential_helper: helper, // since 6
  disk_cache: stays,
  experimental_credential_helper: helper, // of 5
  experimental_remote_capture_corrupted_outputs: {
    use: "stays",
    warning: "names a folder of the build server's machine: what is captured there stays there.",
  },
  experimental_remote_downloader: socket,
  experimental_remote_output_service: socket,
  python2_path: stays,
  python3_path: stays,
  python_path: stays,
  remote_cache: socket,
  remote_executor: socket,
  remote_proxy: socket,
  repo_contents_cache: stays, // since 8.3
  repository_cache: stays,
  test_tmpdir: stays,
  vendor_dir: { // since 7.1; in the workspace it is a source, see written_sources.ts
    use: "stays",
    warning:
      "names a folder of the build server's machine, since it is not in the workspace: what is there stays there.",
    outside: true,
  },

  // not paths of this machine: words for tools and tests, patterns, labels, and the client's own options
  ...Object.fromEntries(
    (`
    action_env android_manifest_merger_order aspects base_module binary_path build_event_binary_file_upload_mode
    build_event_json_file_upload_mode build_event_text_file_upload_mode cc_output_directory_tag
    cc_proto_library_header_suffixes cc_proto_library_source_suffixes client_cwd client_env command_port
    command_wait_time config conlyopt copt coverage_output_generator coverage_report_generator coverage_support
    cs_fdo_instrument cs_fdo_profile cxxopt default_ios_provisioning_profile define deleted_packages
    dexopts_supported_in_dexmerger dexopts_supported_in_dexsharder directory_creation_cache
    experimental_command_profile experimental_disk_cache_gc_idle_delay experimental_disk_cache_gc_max_age
    experimental_disk_cache_gc_max_size experimental_execution_graph_log_dep_type
    experimental_execution_graph_log_queue_size experimental_local_retries_on_crash
    experimental_max_directories_to_eagerly_visit_in_globbing experimental_one_version_enforcement
    experimental_output_directory_naming_scheme experimental_output_paths
    experimental_override_name_platform_in_output_dir experimental_profile_additional_tasks
    experimental_remote_include_extraction_size_threshold experimental_remote_output_service_output_path_prefix
    experimental_tool_command_line experimental_verify_repository_rules experimental_windows_sandbox_path
    expunge_async extension_filter extra_execution_platforms extra_toolchains fdo_instrument fdo_profile for_command
    host_action_env host_conlyopt host_copt host_cxxopt host_grte_top host_jvmopt host_linkopt host_per_file_copt
    incompatible_autoload_externally javacopt jvmopt linkopt log_top_n_packages memprof_profile min_param_file_size
    objc_header_scanner_tool objccopt per_file_copt per_file_ltobackendopt platform_suffix propeller_optimize
    rc_source remote_build_event_upload remote_cache_header
    remote_download_regex remote_download_symlink_template repo_env run_env show_config_fragments starlark:expr
    bep_maximum_open_remote_upload_files build_event_max_named_set_of_file_entries cache_computed_file_digests
    credential_helper_cache_duration credential_helper_timeout depth experimental_remote_cache_compression_threshold
    experimental_remote_merkle_tree_cache_size experimental_ui_max_stdouterr_bytes max_computation_steps
    experimental_remote_cache_eviction_retries experimental_remote_cache_ttl memory_profile_stable_heap_parameters
    remote_result_cache_priority show_result vfs_stats_limit
    symlink_prefix test_arg test_env unconditional_warning
  `).trim().split(/\s+/).map((name) => [name, none]),
  ),
};

/** The names of the options with a given use. */
export function optionsFor(use: PathOption["use"]): string[] {
  return Object.entries(PATH_OPTIONS).filter(([, option]) => option.use === use).map(([name]) => name);
}

/** An option's row; undefined if it has none with this use. */
export function pathOption<U extends PathOption["use"]>(
  name: string,
  use: U,
): Extract<PathOption, { use: U }> | undefined {
  const option = Object.hasOwn(PATH_OPTIONS, name) ? PATH_OPTIONS[name] : undefined;
  return option?.use === use ? option as Extract<PathOption, { use: U }> : undefined;
}

/** The program of a command line, if it has an absolute path. */
function program(value: string): string | undefined {
  const word = /^\s*(?:"([^"]*)"|'([^']*)'|(\S+))/.exec(value)?.slice(1).find((text) => text !== undefined);
  return word?.startsWith("/") && !word.startsWith("//") ? word : undefined;
}
