SELECT log_partition, applied_offset FROM progress;
