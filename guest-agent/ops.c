/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* All operations, and the one place that lists them. */
#include "agent.h"

const AgentOp agent_ops[] = {
    { STASIS_AGENT_OP_PING, "ping", .run = op_ping },
    { STASIS_AGENT_OP_INFO, "info", .run = op_info },
    { STASIS_AGENT_OP_INSTANT, "instant", OP_WORKER | OP_KEEP, 70000, op_instant_before,
      op_instant },
    { STASIS_AGENT_OP_SYNC_TIME, "sync-time", .run = op_sync_time },
    { STASIS_AGENT_OP_FS_FREEZE, "fs-freeze", OP_WORKER, 70000, op_fs_freeze_before, op_fs_freeze },
    { STASIS_AGENT_OP_FS_THAW, "fs-thaw", OP_WORKER, 30000, op_fs_thaw_before, op_fs_thaw },
    { STASIS_AGENT_OP_EXEC, "exec", OP_WORKER, 605000, .run = op_exec },
    { STASIS_AGENT_OP_FILE_READ, "file-read", OP_WORKER, 60000, .run = op_file_read },
    { STASIS_AGENT_OP_SHUTDOWN, "shutdown", OP_WORKER | OP_KEEP, 60000, .run = op_shutdown },
    { STASIS_AGENT_OP_PROCESSES, "processes", OP_WORKER, 60000, .run = op_processes },
    { STASIS_AGENT_OP_BOUNDARY, "boundary", OP_WORKER, 70000, op_boundary_before, op_boundary },
    { STASIS_AGENT_OP_PROC_CHECK, "proc-check", OP_WORKER, 60000, .run = op_proc_check },
    { STASIS_AGENT_OP_PROC_FREEZE, "proc-freeze", OP_WORKER, 15000, op_proc_freeze_before,
      op_proc_freeze },
    { STASIS_AGENT_OP_PROC_DUMP, "proc-dump", OP_WORKER, 605000, .run = op_proc_dump },
    { STASIS_AGENT_OP_PROC_PUT, "proc-put", .run = op_proc_put },
    { STASIS_AGENT_OP_PROC_RESTORE, "proc-restore", OP_WORKER | OP_KEEP, 605000,
      op_proc_restore_before, op_proc_restore },
    { STASIS_AGENT_OP_TALK, "talk", OP_WORKER, 30000, op_talk_before, op_talk },
    { STASIS_AGENT_OP_PROC_DUMP_DIRECT, "proc-dump-direct", OP_WORKER, 605000,
      .run = op_proc_dump_direct },
    { STASIS_AGENT_OP_JOB_START, "job-start", OP_WORKER, 30000, .run = op_job_start },
    { STASIS_AGENT_OP_JOB_WAIT, "job-wait", OP_WORKER, 605000, .run = op_job_wait },
    { STASIS_AGENT_OP_JOB_END, "job-end", OP_WORKER, 30000, .run = op_job_end },
    { STASIS_AGENT_OP_DEVICE_SUSPEND, "device-suspend", OP_WORKER, 70000, op_device_suspend_before,
      op_device_suspend },
    { STASIS_AGENT_OP_DEVICE_RESUME, "device-resume", OP_WORKER, 70000, op_device_resume_before,
      op_device_resume },
    { STASIS_AGENT_OP_WISH_WAIT, "wish-wait", .run = op_wish_wait },
    { STASIS_AGENT_OP_WISH_BEGIN, "wish-begin", .run = op_wish_begin },
    { STASIS_AGENT_OP_WISH_END, "wish-end", .run = op_wish_end },
    { STASIS_AGENT_OP_WATCH, "watch", .run = op_watch },
    { STASIS_AGENT_OP_WATCH_END, "watch-end", .run = op_watch_end },
    { STASIS_AGENT_OP_FILE_WRITE, "file-write", OP_WORKER, 60000, .run = op_file_write },
    { STASIS_AGENT_OP_FILE_LIST, "file-list", OP_WORKER, 60000, .run = op_file_list },
    { 0 },
};

const AgentOp *agent_find_op(uint16_t code)
{
    for (const AgentOp *op = agent_ops; op->name != NULL; op++)
        if (op->code == code)
            return op;
    return NULL;
}
