/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef DISK_NBD_WIRE_H
#define DISK_NBD_WIRE_H

/*
 * The NBD protocol's numbers. Names in comments are the sections of the protocol document (doc/proto.md of the NBD
 * project). All integers are big-endian. Nothing but constants here.
 */

/* "Protocol phases: Handshake", "Newstyle negotiation", "Fixed newstyle negotiation" */
#define NBD_MAGIC		0x4e42444d41474943ull	/* "NBDMAGIC" */
#define NBD_OPTION_MAGIC	0x49484156454f5054ull	/* "IHAVEOPT" */
#define NBD_REP_MAGIC		0x0003e889045565a9ull

enum nbd_wire_size {
	NBD_GREETING_LEN = 18,		/* magic, option magic, handshake flags */
	NBD_CLIENT_FLAGS_LEN = 4,
	NBD_OPTION_LEN = 16,		/* magic, option, length of what follows */
	NBD_OPTION_REPLY_LEN = 20,	/* magic, option, reply type, length of what follows */
	NBD_EXPORT_REPLY_LEN = 10,	/* size, transmission flags */
	NBD_EXPORT_ZEROES = 124,	/* behind it, unless both sides have said NO_ZEROES */
	NBD_REQUEST_LEN = 28,		/* magic, flags, type, cookie, offset, length */
	NBD_SIMPLE_LEN = 16,		/* magic, error, cookie */
	NBD_CHUNK_LEN = 20,		/* magic, flags, type, cookie, length of what follows */
	NBD_MAX_STRING = 4096,		/* "Values": no string is longer */
};

/* "Handshake flags" and "Client flags" */
#define NBD_FLAG_FIXED_NEWSTYLE	0x1u
#define NBD_FLAG_NO_ZEROES	0x2u

/* "Option types" */
enum nbd_opt {
	NBD_OPT_EXPORT_NAME = 1,
	NBD_OPT_ABORT = 2,
	NBD_OPT_LIST = 3,
	NBD_OPT_STARTTLS = 5,
	NBD_OPT_INFO = 6,
	NBD_OPT_GO = 7,
	NBD_OPT_STRUCTURED_REPLY = 8,
	NBD_OPT_LIST_META_CONTEXT = 9,
	NBD_OPT_SET_META_CONTEXT = 10,
};

/* "Option reply types" */
enum nbd_rep {
	NBD_REP_ACK = 1,
	NBD_REP_SERVER = 2,
	NBD_REP_INFO = 3,
	NBD_REP_META_CONTEXT = 4,
};
#define NBD_REP_ERR_UNSUP	0x80000001u
#define NBD_REP_ERR_POLICY	0x80000002u
#define NBD_REP_ERR_INVALID	0x80000003u
#define NBD_REP_ERR_TLS_REQD	0x80000005u
#define NBD_REP_ERR_UNKNOWN	0x80000006u
#define NBD_REP_ERR_TOO_BIG	0x80000009u

/* NBD_REP_INFO's kinds */
enum nbd_info {
	NBD_INFO_EXPORT = 0,
	NBD_INFO_NAME = 1,
	NBD_INFO_DESCRIPTION = 2,
	NBD_INFO_BLOCK_SIZE = 3,
};

/* "Transmission flags" */
#define NBD_FLAG_HAS_FLAGS		0x001u
#define NBD_FLAG_READ_ONLY		0x002u
#define NBD_FLAG_SEND_FLUSH		0x004u
#define NBD_FLAG_SEND_FUA		0x008u
#define NBD_FLAG_SEND_TRIM		0x020u
#define NBD_FLAG_SEND_WRITE_ZEROES	0x040u
#define NBD_FLAG_SEND_DF		0x080u
#define NBD_FLAG_CAN_MULTI_CONN		0x100u
#define NBD_FLAG_SEND_CACHE		0x400u
#define NBD_FLAG_SEND_FAST_ZERO		0x800u

/* "Transmission": request and reply messages */
#define NBD_REQUEST_MAGIC	0x25609513u
#define NBD_SIMPLE_MAGIC	0x67446698u
#define NBD_STRUCTURED_MAGIC	0x668e33efu

/* "Request types" */
enum nbd_cmd {
	NBD_CMD_READ = 0,
	NBD_CMD_WRITE = 1,
	NBD_CMD_DISC = 2,
	NBD_CMD_FLUSH = 3,
	NBD_CMD_TRIM = 4,
	NBD_CMD_CACHE = 5,
	NBD_CMD_WRITE_ZEROES = 6,
	NBD_CMD_BLOCK_STATUS = 7,
};

/* "Command flags" */
#define NBD_CMD_FLAG_FUA	0x01u
#define NBD_CMD_FLAG_NO_HOLE	0x02u
#define NBD_CMD_FLAG_DF		0x04u
#define NBD_CMD_FLAG_REQ_ONE	0x08u
#define NBD_CMD_FLAG_FAST_ZERO	0x10u

/* "Structured reply flags" and "Structured reply types" */
#define NBD_REPLY_FLAG_DONE	0x1u
enum nbd_reply_type {
	NBD_REPLY_TYPE_NONE = 0,
	NBD_REPLY_TYPE_OFFSET_DATA = 1,
	NBD_REPLY_TYPE_OFFSET_HOLE = 2,
	NBD_REPLY_TYPE_BLOCK_STATUS = 5,
	NBD_REPLY_TYPE_ERROR = 0x8001,
};

/* "Metadata querying": the namespace "base" */
#define NBD_BASE_ALLOCATION	"base:allocation"
#define NBD_STATE_HOLE		0x1u
#define NBD_STATE_ZERO		0x2u

/* "Error values" */
enum nbd_error {
	NBD_EPERM = 1,
	NBD_EIO = 5,
	NBD_ENOMEM = 12,
	NBD_EINVAL = 22,
	NBD_ENOSPC = 28,
	NBD_EOVERFLOW = 75,
	NBD_ENOTSUP = 95,
	NBD_ESHUTDOWN = 108,
};

#endif
