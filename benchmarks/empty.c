/* An empty file system over libfuse, one thread: what a program in C takes for a request.
 *
 * Below its root is every name of a number: "f5" is a file of 64 KiB, "m5" one of 1 MiB.
 */
#define FUSE_USE_VERSION 312
#include <errno.h>
#include <fuse_lowlevel.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FOREVER 3600.0

static char zeros[1 << 20];

static off_t size_of(fuse_ino_t inode)
{
	return inode & 1 ? 1 << 20 : 1 << 16;
}

static void attributes(fuse_ino_t inode, struct stat *found)
{
	memset(found, 0, sizeof *found);
	found->st_ino = inode;
	found->st_nlink = 1;
	found->st_mode = inode == FUSE_ROOT_ID ? S_IFDIR | 0555 : S_IFREG | 0444;
	found->st_size = inode == FUSE_ROOT_ID ? 0 : size_of(inode);
}

static void lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param entry = {.attr_timeout = FOREVER, .entry_timeout = FOREVER};

	(void)parent;
	if (name[0] != 'f' && name[0] != 'm') {
		fuse_reply_err(request, ENOENT);
		return;
	}
	entry.ino = 2 + 2 * strtoul(name + 1, NULL, 10) + (name[0] == 'm');
	attributes(entry.ino, &entry.attr);
	fuse_reply_entry(request, &entry);
}

static void get_attributes(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file)
{
	struct stat found;

	(void)file;
	attributes(inode, &found);
	fuse_reply_attr(request, &found, FOREVER);
}

static void open_file(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file)
{
	(void)inode;
	file->keep_cache = 1;
	fuse_reply_open(request, file);
}

static void read_file(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset,
		      struct fuse_file_info *file)
{
	off_t left = size_of(inode) - offset;

	(void)file;
	if (left < 0)
		left = 0;
	fuse_reply_buf(request, zeros, (off_t)size < left ? size : (size_t)left);
}

static void close_file(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file)
{
	(void)inode;
	(void)file;
	fuse_reply_err(request, 0);
}

static void flush(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file)
{
	(void)inode;
	(void)file;
	fuse_reply_err(request, ENOSYS);
}

static const struct fuse_lowlevel_ops operations = {
	.lookup = lookup,
	.getattr = get_attributes,
	.open = open_file,
	.read = read_file,
	.release = close_file,
	.flush = flush,
};

int main(int count, char **words)
{
	char *options[] = {words[0], "-oro,fsname=empty"};
	struct fuse_args args = FUSE_ARGS_INIT(2, options);
	struct fuse_session *session = fuse_session_new(&args, &operations, sizeof operations, NULL);

	if (count != 2 || !session || fuse_session_mount(session, words[1]))
		return 1;
	puts("ready");
	fflush(stdout);
	fuse_session_loop(session);
	fuse_session_unmount(session);
	fuse_session_destroy(session);
	return 0;
}
