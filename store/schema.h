/* The text of schema.sql, embedded at build time: what the writer creates and the reader compares a run file with. */
#ifndef NNMEM_STORE_SCHEMA_H
#define NNMEM_STORE_SCHEMA_H

#define SCHEMA_APPLICATION_ID 1852730733u /* PRAGMA application_id */
#define SCHEMA_VERSION        1u          /* PRAGMA user_version */

extern const char store_schema_sql[];

#endif
