export {
  describeExit,
  LinuxVM,
  type LinuxVMOptions,
  type Source,
  type VmEvents,
  type VmExit,
  type VmState,
  VmStoppedError,
} from './vm.ts';
export { Console, type ConsoleListener } from './console.ts';
export type { ExitReason, Progress, VmStats } from './protocol.ts';
export { browserWorker, type WorkerFactory, type WorkerHandle } from './worker-handle.ts';
export { checkSupport, type Support } from './support.ts';
export {
  AgentError,
  type DirectoryEntry,
  type ExitStatus,
  type FileStat,
  type FileSystem,
  type FileType,
  type GuestDevice,
  type GuestProcess,
  type Inspector,
  type InterruptLine,
  type ListedEntry,
  type Mount,
  type OpenFile,
  type Process,
  type RunOptions,
  type RunResult,
  type SpawnOptions,
} from './agent/client.ts';
export {
  type BaseChange,
  type BaseIdentity,
  deleteStorage,
  exportStorage,
  listStorage,
  storageEstimate,
  StorageError,
  type StorageErrorCode,
  type StorageMode,
  type StorageStatus,
  type StoredDisk,
  type VmDisk,
} from './storage.ts';
