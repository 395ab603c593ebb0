export { SYSTEM_FOLDERS, systemFolderOf } from "../../proto/system_folders.ts";
